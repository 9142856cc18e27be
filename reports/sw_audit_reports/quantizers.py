"""The section on quantizers side by side: the chart, the table, what was not measured and why."""

from __future__ import annotations

from collections.abc import Sequence

from sw_audit.record.comparison import ROUND_TO_NEAREST, ComparedQuantizer, Comparison, Quality
from sw_audit.record.record import ModelResult, Record
from sw_audit_reports.canvas import Words
from sw_audit_reports.page import Badge, Cell, Chart, Quantizers, Table, make_table, text_row
from sw_audit_reports.quantizer_chart import draw_quantizers
from sw_audit_reports.text import (
    NOT_FINITE,
    NOT_MEASURED,
    NOTHING,
    count,
    format_bytes,
    format_number,
    format_percent,
    format_ratio,
    format_seconds,
)

COMPARED = Badge("skipped", "Compared")
"""In place of a verdict where nothing was judged."""

_TITLE = "How far from the model as it is, against bits per weight"
_FEW_BITS = 5.0
_HEAD = ("Quantizer", "#Bits", "#Ratio", "Interval", "#KL, nats", "#Top-1", "#Accuracy", "#Time", "#ArmCache")


def only_compares(record: Record) -> bool:
    """Tell whether a record holds comparisons of quantizers and nothing that was judged."""
    return any(result.comparison for result in record.results) and not record.verdicts


def tell_comparison(evidence: ModelResult) -> tuple[Cell, ...]:
    """Say in a sentence what a comparison came to."""
    return () if evidence.comparison is None else (Cell(_tell(evidence.comparison)),)


def build_quantizers(evidence: ModelResult, anchor: str) -> Quantizers | None:
    """Build the section of one model.

    Args:
        evidence: What was measured.
        anchor: What the ids of the section begin with.

    Returns:
        `None` where no quantizers were compared.
    """
    comparison = evidence.comparison
    if comparison is None:
        return None
    measured = comparison.measured
    left = [row for row in comparison.rows if row.quality is None]
    told = [
        f"Every figure is measured under one protocol ({comparison.protocol}), against the model as it is. "
        f"Bits count everything that is stored for the decoder's matrices, over the number of their weights. "
        "Round-to-nearest is simulated, with scales of 16 bits; other libraries are run as they are. Ratio is "
        "perplexity over the model's own, top-1 the part of the tokens at which both find the same next token "
        "likeliest, memory the most that was held while quantizing, beyond the model's own.",
    ]
    if comparison.calibration_windows:
        windows = count(comparison.calibration_windows, "further window")
        told.append(f"Methods that learn from text were given {windows} of it.")
    if any(row.hold_out == "nothing-to-hold" for row in comparison.rows):
        told.append("No super weight was located, so nothing is held out.")
    told += [
        f"{row.name} leaves {count(row.left_alone, 'matrix', 'matrices')} as they are, and their bits count."
        for row in measured
        if row.left_alone
    ]
    return Quantizers(
        told=" ".join(told),
        figure=_show(measured, f"{anchor}-chart") if measured else None,
        rows=_list_rows(comparison),
        unmeasured=_list_unmeasured(left) if left else None,
    )


def _show(rows: Sequence[ComparedQuantizer], id: str) -> Chart:  # noqa: A002
    caption = _tell_chart(rows)
    return Chart(id, _TITLE, caption, draw_quantizers(rows, Words(id, _TITLE, caption)))


def _tell_chart(rows: Sequence[ComparedQuantizer]) -> str:
    told = ["Lower and further left is better: KL divergence in nats per token, on a logarithmic axis."]
    ours = [row for row in rows if row.method == ROUND_TO_NEAREST]
    pairs = [
        (plain, held)
        for plain in ours
        for held in ours
        if plain.settings == held.settings and plain.hold_out == "none" and held.hold_out == "held"
    ]
    if ours:
        told.append("Diamonds: round-to-nearest as it is.")
    if pairs:
        told.append("Circles: with the super weights held out, joined to the same recipe without.")
    if len(ours) < len(rows):
        told.append("Squares: other libraries.")
    if (best := _find_gain(pairs)) is not None:
        told.append(best)
    if any(row.quality is not None and row.quality.divergence is None for row in rows):
        told.append("A triangle at the upper edge marks a divergence that is not finite.")
    return " ".join(told)


def _find_gain(pairs: Sequence[tuple[ComparedQuantizer, ComparedQuantizer]]) -> str | None:
    """Tell where holding out gains most."""
    gains = [
        (plain.quality.divergence / held.quality.divergence, plain, held)
        for plain, held in pairs
        if plain.quality and held.quality and plain.quality.divergence and held.quality.divergence
    ]
    if not gains:
        return None
    gain, plain, _ = max(gains, key=lambda one: one[0])
    return f"Holding out gains most at {plain.settings}: {format_number(gain, 3)} times less divergence."


def _tell(comparison: Comparison) -> str:
    measured = comparison.measured
    told = f"{format_number(len(measured))} of {count(len(comparison.rows), 'quantizer')} measured"
    small = [
        (row.quality.ratio, row)
        for row in measured
        if row.quality is not None and row.quality.ratio is not None and (row.bits_per_weight or 99) <= _FEW_BITS
    ]
    if not small:
        return f"{told}."
    ratio, best = min(small, key=lambda one: one[0])
    bits = format_number(best.bits_per_weight or 0.0, 3)
    return (
        f"{told}. At {format_number(_FEW_BITS)} bits per weight or fewer {best.name} loses least: it multiplies "
        f"perplexity by {format_number(ratio)}, at {bits} bits."
    )


def _list_rows(comparison: Comparison) -> Table:
    base = (f"{comparison.dtype_bits}", *_write_quality(comparison.baseline), NOTHING, NOTHING)
    rows = [text_row("Model as it is", *base)]
    rows += [
        text_row(
            row.name,
            NOTHING if row.bits_per_weight is None else f"{row.bits_per_weight:.2f}",
            *_write_quality(row.quality),
            NOTHING if row.seconds is None else format_seconds(row.seconds),
            NOTHING if row.peak_bytes is None else format_bytes(row.peak_bytes),
        )
        for row in comparison.rows
        if row.quality is not None
    ]
    caption = f"Ratios with {100 * comparison.confidence:g} % intervals by paired bootstrap"
    return make_table(caption, _HEAD, rows)


def _write_quality(quality: Quality) -> tuple[str, str, str, str, str]:
    ends = (quality.low, quality.high)
    low, high = (NOTHING if end is None else format_ratio(end) for end in ends)
    return (
        NOT_FINITE if quality.ratio is None else format_ratio(quality.ratio),
        NOTHING if None in ends else f"[{low},\N{NO-BREAK SPACE}{high}]",
        NOT_FINITE if quality.divergence is None else format_number(quality.divergence, 3),
        NOTHING if quality.top1 is None else format_percent(quality.top1),
        NOTHING if quality.accuracy is None else format_percent(quality.accuracy),
    )


def _list_unmeasured(rows: Sequence[ComparedQuantizer]) -> Table:
    listed = [text_row(row.name, row.what, row.because or NOT_MEASURED) for row in rows]
    return make_table("Not measured", ("Quantizer", "What it is", "Why not"), listed)
