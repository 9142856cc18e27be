"""The section on how the super weights of one model work; it is left out where nothing was taken apart."""

from __future__ import annotations

from collections.abc import Sequence

from sw_audit.policy.policy import Policy
from sw_audit.record.arm import FLIPPED, is_dose
from sw_audit.record.dose import DoseCurve
from sw_audit.record.mechanism import Mechanism
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Verdict
from sw_audit_reports.canvas import Words
from sw_audit_reports.cause_charts import draw_attended, draw_doses, draw_stream
from sw_audit_reports.causes import (
    DoseFigure,
    SetRow,
    count_controls,
    list_attended,
    list_doses,
    list_sets,
    list_stream,
)
from sw_audit_reports.page import Chart, Table, Works, make_table, text_row
from sw_audit_reports.published_chart import draw_published
from sw_audit_reports.text import (
    NOT_FINITE,
    NOTHING,
    count,
    format_interval,
    format_number,
    format_percent,
    join_words,
)


def build_works(evidence: ModelResult, verdicts: Sequence[Verdict], policy: Policy, anchor: str) -> Works | None:
    """Build the section of one model.

    Args:
        evidence: What was found and measured.
        verdicts: The verdicts on this model, whose intervals are shown.
        policy: The confidence of intervals.
        anchor: What the ids of the model's section begin with.

    Returns:
        `None` where neither parts of the set nor doses were measured, nor a super activation followed.
    """
    names = [one.arm.name for one in evidence.measurements]
    scaled = any(is_dose(one.arm) for one in evidence.measurements)
    figures = [_show_doses(evidence, verdicts, policy, f"{anchor}-dose")] if scaled else []
    own = [curve for curve in evidence.published_doses if curve.own and not curve.is_perplexity_ratio]
    figures += [_show_published(curve, f"{anchor}-published-{place}") for place, curve in enumerate(own, start=1)]
    for place, mechanism in enumerate(evidence.mechanism, start=1):
        figures.append(_show_stream(mechanism, f"{anchor}-stream-{place}"))
        figures.append(_show_attended(mechanism, f"{anchor}-attended-{place}"))
    sets = list_sets(evidence, verdicts) if scaled or FLIPPED in names else ()
    told = _tell_sets(sets, count_controls(evidence))
    return Works(told, tuple(figures), _list_sets(sets) if sets else None) if figures or sets else None


def _show_doses(evidence: ModelResult, verdicts: Sequence[Verdict], policy: Policy, id: str) -> Chart:  # noqa: A002
    title = "Perplexity ratio against what is left of the super weights"
    doses = list_doses(evidence, verdicts)
    curves = evidence.published_doses
    caption = _tell_doses(doses, curves, policy)
    compared = [curve for curve in curves if curve.is_perplexity_ratio]
    drawings = draw_doses(doses, compared, Words(id, title, caption))
    return Chart(id, title, caption, drawings, _list_doses(doses, curves))


def _show_published(curve: DoseCurve, id: str) -> Chart:  # noqa: A002
    title = f"What others have measured of {curve.model} at each factor"
    caption = (
        f"Not measured here: {curve.quantity} ({curve.source}). Its shape can be compared with the curve above."
    )
    return Chart(id, title, caption, draw_published(curve, Words(id, title, caption)))


def _show_stream(mechanism: Mechanism, id: str) -> Chart:  # noqa: A002
    title = f"Who makes the super activation of channel {mechanism.channel}, and who carries it"
    caption = _tell_stream(mechanism)
    drawings = draw_stream(list_stream(mechanism), Words(id, title, caption))
    return Chart(id, title, caption, drawings, _list_layers(mechanism))


def _show_attended(mechanism: Mechanism, id: str) -> Chart:  # noqa: A002
    title = f"Attention that rests on token {mechanism.token}, where channel {mechanism.channel} is massive"
    points = list_attended(mechanism)
    if not points:
        return Chart(id, title, "Left out: this model shows no attention weights, or no token follows that one.")
    later = [one for one in mechanism.layers if one.layer > mechanism.first_layer]
    before = [one.attended for one in later if one.attended is not None]
    after = [one.attended_pruned for one in later if one.attended_pruned is not None]
    caption = "Mean over heads and over the tokens after it, on the locating prompt."
    if before and after:
        caption += (
            f" In the layers after the super activation is made it is {format_percent(sum(before) / len(before))}"
            f" on average, and with the super weights zeroed {format_percent(sum(after) / len(after))}."
        )
    return Chart(id, title, caption, draw_attended(points, Words(id, title, caption)), _list_attended(mechanism))


def _tell_doses(doses: Sequence[DoseFigure], curves: Sequence[DoseCurve], policy: Policy) -> str:
    half = next((dose.ratio.value for dose in doses if dose.factor == 0.5), None)
    told = ["On a logarithmic axis; 1 is the model as it is, 0 its super weights zeroed."]
    if any(dose.factor == -1 for dose in doses):
        told[0] = told[0].replace("; 1 is", f"; {format_number(-1)} is their sign flipped, 1 is", 1)
    if half is not None:
        told.append(f"With half of them left perplexity is {format_number(half)} times as high.")
    if any(dose.ratio.low is not None for dose in doses):
        told.append(f"Bars are {100 * policy.confidence:g} % intervals.")
    if any(dose.ratio.value is None for dose in doses):
        told.append("A triangle at the edge marks a perplexity that is not finite.")
    drawn = list(dict.fromkeys(curve.model for curve in curves if curve.is_perplexity_ratio))
    if drawn:
        sources = list(dict.fromkeys(curve.source for curve in curves if curve.is_perplexity_ratio))
        told.append(
            f"Dotted: published curves of {join_words(drawn)} on their own texts ({join_words(sources)}); "
            "their shape can be compared, their height only roughly."
        )
    return " ".join(told)


def _tell_stream(mechanism: Mechanism) -> str:
    where = "Lines: what leaves each layer. Sticks: what its attention (left) and its MLP (right) add. "
    where += f"All is the value of channel {mechanism.channel} at token {mechanism.token} of the locating prompt."
    made = max(mechanism.layers[: mechanism.first_layer + 1], key=lambda one: abs(one.intact.added), default=None)
    told = [where]
    if made is not None:
        parts = {"its MLP": made.intact.mlp, "its attention": made.intact.attention}
        known = [f"{name} {format_number(value)}" for name, value in parts.items() if value is not None]
        told.append(
            f"Layer {made.layer} adds most of it: {' and '.join(known)}."
            if known
            else f"Layer {made.layer} adds most of it ({format_number(made.intact.added)}); its blocks cannot be "
            "told apart."
        )
    if mechanism.carried is not None:
        riding = f"layers {mechanism.first_layer + 1} to {mechanism.last_layer}"
        if mechanism.last_layer == mechanism.first_layer + 1:
            riding = f"layer {mechanism.last_layer}"
        told.append(
            f"Through {riding} skip connections alone carry at least {format_percent(mechanism.carried)} of it."
        )
    if mechanism.dampened is not None:
        told.append(
            f"Zeroing the super weights takes {format_percent(mechanism.dampened)} of it away (in the paper's "
            "Llama-7B: 75 %)."
        )
    return " ".join(told)


def _tell_sets(rows: Sequence[SetRow], controls: int) -> str:
    whole = next((row for row in rows if row.share is not None), None)
    if whole is None or whole.ratio.value is None:
        return ""
    told = f"Zeroed together, the super weights multiply perplexity by {format_number(whole.ratio.value)}"
    if whole.rank is None:
        return f"{told}."
    # p = (1 + controls that do as much) / (1 + controls)
    above = round(whole.rank * (1 + controls)) - 1
    told += f"; of {count(controls, 'matched control')} {format_number(above) if above else 'none'} "
    told += f"{'do' if above > 1 else 'does'} as much harm"
    return (
        f"{told} (p = {format_number(whole.rank, 2)}). Each part stands below with its share of that damage, in "
        "nats per token, and its own p among the same controls."
    )


def _list_sets(rows: Sequence[SetRow]) -> Table:
    ranked = any(row.rank is not None for row in rows)
    cells = (
        text_row(
            row.label,
            NOT_FINITE if row.ratio.value is None else format_number(row.ratio.value),
            format_interval(row.ratio.low, row.ratio.high) or NOTHING,
            NOTHING if row.share is None else format_percent(row.share),
            *([NOTHING if row.rank is None else format_number(row.rank, 2)] if ranked else []),
        )
        for row in rows
    )
    titles = ("What is done", "#Perplexity ratio", "#Interval", "#Share", *(["#p"] if ranked else []))
    return make_table("What the set and its parts do", titles, cells)


def _list_doses(doses: Sequence[DoseFigure], curves: Sequence[DoseCurve]) -> Table:
    ratios = {dose.factor: dose.ratio for dose in doses}
    published = [dict(curve.points) for curve in curves]
    factors = sorted({*ratios, *(factor for points in published for factor in points)})
    rows = []
    for factor in factors:
        ratio = ratios.get(factor)
        known = NOT_FINITE if ratio and ratio.value is None else NOTHING
        rows.append(
            text_row(
                format_number(factor),
                format_number(ratio.value) if ratio and ratio.value is not None else known,
                (format_interval(ratio.low, ratio.high) if ratio else "") or NOTHING,
                *(format_number(points[factor]) if factor in points else NOTHING for points in published),
            )
        )
    names = [
        f"#Published: {curve.model.rpartition('/')[2]}{'' if curve.is_perplexity_ratio else f', {curve.quantity}'}"
        for curve in curves
    ]
    return make_table(
        "Perplexity ratio at each factor", ("#Factor", "#Perplexity ratio", "#Interval", *names), rows
    )


def _list_layers(mechanism: Mechanism) -> Table:
    rows = [
        text_row(
            format_number(one.layer),
            *(
                NOTHING if value is None else format_number(value)
                for value in (
                    one.intact.skip, one.intact.attention, one.intact.mlp, one.intact.leaving, one.pruned.leaving
                )
            ),
            _show_share(one.dampened),
        )
        for one in mechanism.layers
    ]  # fmt: skip
    titles = ("#Layer", "#Skip brings", "#Attention adds", "#MLP adds", "#Leaves", "#Leaves, zeroed", "#Dampened")
    return make_table("The super activation's entry, layer by layer", titles, rows)


def _list_attended(mechanism: Mechanism) -> Table:
    rows = [
        text_row(format_number(one.layer), _show_share(one.attended), _show_share(one.attended_pruned))
        for one in mechanism.layers
    ]
    titles = ("#Layer", "#Model as it is", "#Super weights zeroed")
    return make_table("Attention that rests on the super activation's token", titles, rows)


def _show_share(share: float | None) -> str:
    return NOTHING if share is None else format_percent(share)
