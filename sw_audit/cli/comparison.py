"""How the command line shows a comparison: a row per quantizer, then what it comes to."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sw_audit.checks.estimate import write_number
from sw_audit.cli.table import make_console
from sw_audit.record.measurement import ROUND_TO_NEAREST, ComparedQuantizer, Comparison, Quality
from sw_audit.record.record import ModelResult, Record

_NOTHING = "-"
_HEAD = ("quantizer", "bits", "perplexity ratio [low, high]", "KL nats", "top-1", "accuracy", "seconds", "memory")
_FEW_BITS = 5
_UNITS = ("B", "kB", "MB", "GB", "TB")


def take_comparison(record: Record) -> tuple[ModelResult, Comparison]:
    """Return the model of a comparison's record, and the comparison."""
    (result,) = record.results
    if result.comparison is None:
        raise ValueError(f"no quantizers were compared on {result.id}")
    return result, result.comparison


def print_comparison(record: Record, files: Mapping[str, str], *, quiet: bool) -> None:
    """Print a comparison on standard output.

    Args:
        record: Holds one comparison.
        files: What was written, by kind.
        quiet: Only the last line.
    """
    console = make_console()
    result, comparison = take_comparison(record)
    model, location = result.model, result.location
    if not quiet:
        console.print(
            Text(f"{model.id}  {model.family}, {model.layers} layers, {model.parameters:,} parameters"),
            soft_wrap=True,
        )
        for weight in location.super_weights:
            console.print(Text(f"  held out: {weight.address} = {weight.value:.4g}"), soft_wrap=True)
        if not location.super_weights:
            console.print(Text(f"  nothing to hold out: {location.outcome}, {location.because}"), soft_wrap=True)
        console.print(Text(f"  protocol {result.protocol}"), soft_wrap=True)
        console.print(Text(f"  calibrated on {comparison.calibration_windows} windows beside it"), soft_wrap=True)
        for note in result.notes:
            console.print(Text(f"  note: {note}"), soft_wrap=True)
        _print_wide(console, tabulate(comparison))
        for row in comparison.rows:
            if row.quality is None:
                console.print(Text(f"not measured {row.name}: {row.because}"), soft_wrap=True)
            elif row.left_alone:
                left = f"{row.left_alone} matrices stay as they are, and their bits count"
                console.print(Text(f"{row.name}: {left}"), soft_wrap=True)
        for kind, path in files.items():
            console.print(Text(f"{kind:<8}{path}"), soft_wrap=True)
    console.print(Text(conclude(comparison), style="bold"), soft_wrap=True)


def tabulate(comparison: Comparison) -> Table:
    """Lay a comparison out as a table, the model as it is first."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for place, title in enumerate(_HEAD):
        table.add_column(title, no_wrap=True, justify="left" if place in (0, 2) else "right")
    table.add_row("as it is", str(comparison.dtype_bits), *_write_quality(comparison.baseline), _NOTHING, _NOTHING)
    table.add_section()
    ours = sum(row.method == ROUND_TO_NEAREST for row in comparison.rows)
    for place, row in enumerate(comparison.rows, start=1):
        bits = _NOTHING if row.bits_per_weight is None else f"{row.bits_per_weight:.2f}"
        figures = ("not measured", *[_NOTHING] * 3) if row.quality is None else _write_quality(row.quality)
        seconds = _NOTHING if row.seconds is None else write_number(row.seconds)
        cells = (row.name, bits, *figures, seconds, _write_bytes(row.peak_bytes))
        table.add_row(*(Text(cell) for cell in cells), end_section=place == ours)
    return table


def conclude(comparison: Comparison) -> str:
    """Write what it comes to: how much was measured, and the least loss at 5 bits or fewer."""
    rows = comparison.measured
    if not rows:
        return "NOTHING COMPARED"
    summary = f"COMPARED: {len(rows)} of {len(comparison.rows)} measured"
    small = [row for row in rows if row.bits_per_weight is not None and row.bits_per_weight <= _FEW_BITS]
    least = min(small, key=_rank, default=None)
    if least is None or least.quality is None or least.quality.ratio is None:
        return summary
    ratio, bits = write_number(least.quality.ratio), write_number(least.bits_per_weight)
    return f"{summary}; least loss at {_FEW_BITS} bits or fewer: {least.name}, perplexity x {ratio} at {bits} bits"


def _rank(row: ComparedQuantizer) -> float:
    ratio = None if row.quality is None else row.quality.ratio
    return float("inf") if ratio is None else ratio


def _write_quality(quality: Quality) -> tuple[str, str, str, str]:
    interval = (
        ""
        if quality.low is None or quality.high is None
        else (f" [{_write_ratio(quality.low)}, {_write_ratio(quality.high)}]")
    )
    return (
        "not finite" if quality.ratio is None else f"{_write_ratio(quality.ratio)}{interval}",
        "not finite" if quality.divergence is None else write_number(quality.divergence),
        _NOTHING if quality.top1 is None else f"{100 * quality.top1:.1f} %",
        _NOTHING if quality.accuracy is None else f"{100 * quality.accuracy:.1f} %",
    )


def _write_ratio(ratio: float) -> str:
    """Write a ratio so that what is near 1 can be told from it."""
    return f"{ratio:.4f}" if ratio < 10 else write_number(ratio)


def _write_bytes(size: int | None) -> str:
    if size is None:
        return _NOTHING
    amount, unit = float(size), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.3g} {_UNITS[unit]}"


def _print_wide(console: Console, table: Table) -> None:
    """Print a table as wide as it is: figures that are cut off cannot be compared."""
    needed = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    Console(highlight=False, markup=False, emoji=False, width=max(console.width, needed)).print(table)
