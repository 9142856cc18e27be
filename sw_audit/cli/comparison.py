"""How the command line shows a comparison: a row per quantizer, then what it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.table import Column, Table

from sw_audit.checks.estimate import write_number
from sw_audit.cli.printing import Output, make_table, write_bytes
from sw_audit.printable import printable
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


def print_comparison(record: Record, files: Mapping[str, Path], *, quiet: bool) -> None:
    """Print a comparison and what was written on standard output; if `quiet`, only the last line."""
    output = Output()
    result, comparison = take_comparison(record)
    model, location = result.model, result.location
    if not quiet:
        held = [f"  held out: {weight.address} = {weight.value:.4g}" for weight in location.super_weights]
        output.print_lines(
            f"{model.id}  {model.family}, {model.layers} layers, {model.parameters:,} parameters",
            *(held or [f"  nothing to hold out: {location.outcome}, {location.because}"]),
            f"  protocol {result.protocol}",
            f"  calibrated on {comparison.calibration_windows} windows beside it",
            *(f"  note: {note}" for note in result.notes),
        )
        output.print_whole(tabulate(comparison))
        for row in comparison.rows:
            if row.quality is None:
                output.print_lines(f"not measured {row.name}: {row.because}")
            elif row.left_alone:
                output.print_lines(f"{row.name}: {row.left_alone} matrices stay as they are, and their bits count")
        output.print_files(files.items())
    output.print_lines(conclude(comparison), style="bold")


def tabulate(comparison: Comparison) -> Table:
    """Lay a comparison out as a table, the model as it is first."""
    head = [
        Column(title, no_wrap=True, justify="left" if place in (0, 2) else "right")
        for place, title in enumerate(_HEAD)
    ]
    whole = ("as it is", str(comparison.dtype_bits), *_write_quality(comparison.baseline), _NOTHING, _NOTHING)
    table = make_table(head, [whole], padding=(0, 2, 0, 0))
    table.add_section()
    ours = sum(row.method == ROUND_TO_NEAREST for row in comparison.rows)
    for place, row in enumerate(comparison.rows, start=1):
        bits = _NOTHING if row.bits_per_weight is None else f"{row.bits_per_weight:.2f}"
        figures = ("not measured", *[_NOTHING] * 3) if row.quality is None else _write_quality(row.quality)
        seconds = _NOTHING if row.seconds is None else write_number(row.seconds)
        memory = _NOTHING if row.peak_bytes is None else write_bytes(row.peak_bytes, _UNITS)
        table.add_row(printable(row.name), bits, *figures, seconds, memory, end_section=place == ours)
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
    unbounded = quality.low is None or quality.high is None
    interval = "" if unbounded else f" [{_write_ratio(quality.low)}, {_write_ratio(quality.high)}]"
    return (
        "not finite" if quality.ratio is None else f"{_write_ratio(quality.ratio)}{interval}",
        "not finite" if quality.divergence is None else write_number(quality.divergence),
        _NOTHING if quality.top1 is None else f"{100 * quality.top1:.1f} %",
        _NOTHING if quality.accuracy is None else f"{100 * quality.accuracy:.1f} %",
    )


def _write_ratio(ratio: float | None) -> str:
    """Write a ratio so that what is near 1 can be told from it."""
    return f"{ratio:.4f}" if ratio is not None and ratio < 10 else write_number(ratio)
