"""The experts of a mixture: where tokens went, what each tried one does, and which a quantization left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from sw_audit.checks.super_experts_exceed_controls import CONTROLS, MARKED, name_expert
from sw_audit.checks.unreached import find_routing
from sw_audit.record.arm import BASELINE, ZeroedExpert, ZeroedExperts
from sw_audit.record.experts import ComparedExperts, ExpertStudy, Mark, RoutedLayer, SiblingExperts, TriedExpert
from sw_audit.record.labels import label_purpose
from sw_audit_reports import theme
from sw_audit_reports.elements import Chart, Element, Table, code, figures, make_paragraph, make_table, text
from sw_audit_reports.plots import Panel, plot_heat
from sw_audit_reports.sections import Context, section
from sw_audit_reports.text import (
    NOTHING,
    count,
    format_finite,
    format_interval,
    format_number,
    format_optional,
    format_percent,
    format_ratio,
    join_words,
)
from sw_audit_reports.theme import make_chart
from sw_audit_reports.verdicts import estimate_ratio, list_figures

# Of more experts than fit side by side, neighbours share a cell; so many rows of a table stand open.
_MOST_COLUMNS, _OPEN_AT_MOST, _NAMED = 128, 12, 16
_MARKS: dict[Mark, str] = {
    "super-weight": "super weight",
    "critical-scalar": "critical scalar",
    "output": "output stands out",
}


@section("experts", title="Its experts", order=69)
def show_experts(context: Context) -> Iterator[Element | None]:
    """Show where tokens were routed, what was zeroed, and what a descendant's files hold of its experts."""
    study, routing, files = context.result.experts, find_routing(context.result), context.result.files
    if routing:
        yield _show_routing(routing, study, f"{context.anchor}-routing")
        yield _list_unreached(routing)
    if study is not None:
        yield make_paragraph(_summarize(study))
        yield _list_tried(context, study, routing)
        yield make_paragraph(_describe_calibration(study))
    if files is not None and files.experts is not None:
        yield _list_siblings(files.experts)


def _show_routing(routing: Sequence[RoutedLayer], study: ExpertStudy | None, id: str) -> Chart:  # noqa: A002
    most = max(len(layer.tokens) for layer in routing)
    shared = math.ceil(most / _MOST_COLUMNS)
    width = math.ceil(most / shared)
    cells = [[_share_cell(layer, column, shared) for column in range(width)] for layer in routing]
    lines = [f"layer {layer.layer}" for layer in routing]
    rows = {layer.layer: row for row, layer in enumerate(routing)}
    marked = [one.address for one in study.tried if not one.is_control] if study is not None else []
    framed = tuple((rows[one.layer], one.number // shared) for one in marked if one.layer in rows)
    panel = Panel("Tokens routed to each expert", lines, cells, framed)
    across = "Expert" if shared == 1 else f"Expert, {shared} to a cell"
    plot, data = plot_heat([panel], [column * shared for column in range(width)], across, theme.INTACT)
    return make_chart(id, "Where the text was routed", _describe_cells(routing, framed, shared), plot, data)


def _share_cell(layer: RoutedLayer, column: int, shared: int) -> float | None:
    """Return the tokens of the experts of one cell, on average; `None` if none was routed there."""
    tokens = layer.tokens[column * shared : (column + 1) * shared]
    return sum(tokens) / len(tokens) if any(tokens) else None


def _describe_cells(routing: Sequence[RoutedLayer], framed: Sequence[object], shared: int) -> Iterator[str]:
    experts = sum(len(layer.tokens) for layer in routing)
    unreached = sum(len(layer.unreached) for layer in routing)
    yield "The stronger the colour, the more tokens of the scored text were routed there, on a logarithmic scale."
    if shared > 1:
        yield f"A cell stands for {shared} experts, on average."
    yield f"An empty frame marks where no token came: {format_number(unreached)} of {count(experts, 'expert')}."
    if framed:
        yield "Framed in colour are the marked experts that were zeroed."


def _list_unreached(routing: Sequence[RoutedLayer]) -> Table | None:
    rows = [
        (
            layer.layer,
            len(layer.tokens),
            len(layer.unreached),
            ", ".join(map(str, layer.unreached[:_NAMED])) + (", …" if len(layer.unreached) > _NAMED else ""),
        )
        for layer in routing
        if layer.unreached
    ]
    heads = [*figures("Layer", "Experts", "Not reached"), *text("Which")]
    fold = f"{count(len(rows), 'layer')} with such experts" if len(rows) > _OPEN_AT_MOST else ""
    caption = "Experts that no token of the text reached: figures that rest on it say nothing of them"
    return make_table(caption, heads, rows, fold=fold)


def _summarize(study: ExpertStudy) -> str:
    if study.percentile is None or study.largest is None:
        return f"None of its {study.experts} experts could be followed."
    where = "" if study.last_layer is None else f", up to layer {study.last_layer}"
    return (
        f"On {format_number(study.tokens)} tokens, {count(study.marked, 'expert')} of "
        f"{format_number(study.experts)} {'is' if study.marked == 1 else 'are'} marked: by a super weight, by a "
        "critical scalar, or because the largest magnitude that leaves its down-projection is above the 99.5th "
        f"percentile ({format_number(study.percentile)}) and above a tenth of the largest "
        f"({format_number(study.largest)}){where}."
    )


def _list_tried(context: Context, study: ExpertStudy, routing: Sequence[RoutedLayer]) -> Table | None:
    """List each expert that was zeroed, with the tokens of the scored text that were routed to it."""
    layers = {layer.layer: layer for layer in routing}
    rows = [
        (
            *_measure(context, name_expert(one)),
            join_words([_MARKS[mark] for mark in one.marks]) or "control",
            *_describe_load(one, layers),
            format_finite(one.peak),
        )
        for one in study.tried
    ]
    several = len(study.tried) > 2
    sets = [purpose for purpose in (MARKED, CONTROLS) if several and context.result.measured(purpose)]
    rows += [(*_measure(context, purpose), NOTHING, NOTHING, NOTHING, NOTHING) for purpose in sets]
    heads = [*text("What was zeroed"), *figures("Perplexity ratio", "Interval"), *text("Why")]
    heads += figures("Tokens", "Routing weight", "Largest output")
    return make_table("Experts zeroed, over the whole text", heads, rows)


def _measure(context: Context, purpose: ZeroedExpert | ZeroedExperts) -> tuple[str, str, str]:
    """Return what an arm is called, its perplexity over that of the model as it is, and its interval."""
    known = list_figures(context.verdicts, "ratio").get(purpose.name)
    figure = estimate_ratio(context.result.measured(purpose), context.result.measured(BASELINE.purpose), known)
    interval = format_interval(figure.low, figure.high) or NOTHING
    return label_purpose(purpose), format_finite(figure.value, format_ratio), interval


def _describe_load(one: TriedExpert, layers: Mapping[int, RoutedLayer]) -> tuple[str, str]:
    layer = layers.get(one.address.layer)
    if layer is None:
        return NOTHING, NOTHING
    share = layer.share(one.address.number)
    return format_number(layer.tokens[one.address.number]), format_optional(share, format_percent, missing=NOTHING)


def _describe_calibration(study: ExpertStudy) -> str:
    unreached = sum(len(layer.unreached) for layer in study.calibration)
    experts = sum(len(layer.tokens) for layer in study.calibration)
    if not experts:
        return ""
    return (
        f"The text that ranges and scales were learned on reached all but {format_number(unreached)} of "
        f"{count(experts, 'expert')}."
    )


def _list_siblings(experts: ComparedExperts) -> Table | None:
    """List the same matrix of a layer's experts with the largest error among them, the worst first."""
    ranked = sorted(experts.siblings, key=_rank, reverse=True)
    rows = [
        (
            code(one.name),
            one.count,
            format_finite(one.usual),
            one.worst[0][0] if one.worst else NOTHING,
            format_finite(one.worst[0][1]) if one.worst else NOTHING,
            ", ".join(map(str, one.unquantized)) or NOTHING,
        )
        for one in ranked
    ]
    heads = [*text("Matrix"), *figures("Experts", "Usual error", "Worst expert", "Its error"), *text("Left plain")]
    fold = f"{count(len(rows), 'matrix', 'matrices')} of each layer's experts" if len(rows) > _OPEN_AT_MOST else ""
    return make_table("Experts beside the parent's: error of their weights", heads, rows, fold=fold)


def _rank(one: SiblingExperts) -> float:
    """Return how far the worst is from the usual; first of all what is plain or not finite."""
    worst = one.worst[0][1] if one.worst else 0.0
    if one.unquantized or worst is None:
        return math.inf
    return worst / one.usual if one.usual else worst
