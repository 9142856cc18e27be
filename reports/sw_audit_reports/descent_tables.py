"""Tables of a descendant beside its parent."""

from __future__ import annotations

from collections.abc import Sequence

from sw_audit.record.descent import DESCENDANT, PARENT, ComparedText, Descent
from sw_audit.record.identity import ModelIdentity
from sw_audit.record.measurement import Measurement
from sw_audit.record.verdict import Verdict
from sw_audit_reports.descent_series import (
    NoisePoint,
    Recovered,
    divide_perplexity,
    find_ratio,
    label_texts,
    name_part,
)
from sw_audit_reports.page import Cell, Table, Term, make_table, text_row
from sw_audit_reports.series import INTACT, TOUCHED, LayerPoint
from sw_audit_reports.text import (
    NOT_FINITE,
    NOT_MEASURED,
    NOTHING,
    format_interval,
    format_number,
    format_percent,
    format_ratio,
)


def list_weights(descent: Descent) -> Table | None:
    """List the parent's super weights with their value here and the errors of their neighbours."""
    rows = [
        text_row(
            Cell(str(one.address), code=True),
            format_number(one.parent, 5),
            (NOT_MEASURED if one.finite else NOT_FINITE) if one.value is None else format_number(one.value, 5),
            format_change(one.value, one.parent),
            *(NOTHING if error is None else format_percent(error) for error in (one.row_error, one.column_error)),
        )
        for one in descent.super_weights
    ]
    titles = ("Scalar", "#In the parent", "#Here", "#Change", "#Rest of its row", "#Rest of its column")
    return make_table("The parent's super weights, there and here", titles, rows) if rows else None


def list_activations(descent: Descent) -> Table | None:
    """List the parent's super activations with the range of their ratios over the layers."""
    rows = []
    for one in descent.super_activations:
        both = zip(one.value, one.parent, strict=True)
        ratios = [here / there for here, there in both if here is not None and there]
        spoilt = None in one.value
        rows.append(
            text_row(
                *(format_number(place) for place in (one.channel, one.token)),
                f"{one.layers[0]} to {one.layers[-1]}" if one.layers else NOTHING,
                _span(one.parent),
                NOT_FINITE if spoilt else _span([here for here in one.value if here is not None]),
                NOT_FINITE if spoilt else _span(ratios, 3),
                f"{format_number(sum(one.loudest))} of {format_number(len(one.loudest))}",
                " → ".join(
                    NOTHING if sink is None else format_percent(sink) for sink in (one.sink_parent, one.sink)
                ),
            )
        )
    titles = (
        "#Channel", "#Token", "#Layers", "#In the parent", "#Here", "#Ratio", "#Loudest",
        "#Attention on it",
    )  # fmt: skip
    return make_table("The parent's super activations, there and here", titles, rows) if rows else None


def list_quality(descent: Descent, verdicts: Sequence[Verdict]) -> tuple[Table, ...]:
    """List what was measured on each text, a table for each."""
    return tuple(_list_text(label, text, verdicts) for label, text in label_texts(descent))


def list_recoveries(found: Sequence[Recovered]) -> Table | None:
    """List what putting parts of the parent back recovers."""
    several = len({one.text for one in found}) > 1
    rows = [
        text_row(
            *([one.text] if several else []),
            one.part,
            NOT_FINITE if one.ratio is None else format_ratio(one.ratio),
            *_write_share(one),
        )
        for one in found
    ]
    titles = (*(["Text"] if several else []), "Put back", "#Perplexity ratio", "#Loss recovered", "#Interval")
    caption = "Parts of the parent put back into this model, one at a time"
    return make_table(caption, titles, rows) if rows else None


def list_modules(descent: Descent) -> Table | None:
    """List the modules whose weights differ most from the parent's."""
    rows = [
        text_row(Cell(name, code=True), NOT_FINITE if error is None else format_percent(error))
        for name, error in descent.worst_modules
    ]
    caption = "Modules whose weights differ most from the parent's, by the norm of the difference"
    return make_table(caption, ("Module", "#Relative error"), rows) if rows else None


def list_tasks(descent: Descent, verdicts: Sequence[Verdict]) -> Table | None:
    """List zero-shot tasks with the accuracy of both, and at how many items only one is right."""
    held = {one.label: one for verdict in verdicts if verdict.check == "task-accuracy" for one in verdict.findings}
    rows = []
    for one in descent.tasks:
        pairs = list(zip(one.parent, one.descendant, strict=True))
        finding = held.get(one.task)
        rows.append(
            text_row(
                f"{one.task} ({one.metric}, version {one.version})",
                format_number(len(pairs)),
                *(
                    format_percent(sum(side) / len(side)) if side else NOTHING
                    for side in (one.parent, one.descendant)
                ),
                format_number(sum(there and not here for there, here in pairs)),
                format_number(sum(here and not there for there, here in pairs)),
                (finding and format_interval(finding.low, finding.high, finding.limit)) or NOTHING,
            )
        )
    titles = ("Task", "#Items", "#Parent", "#Here", "#Lost", "#Gained", "#Interval of the loss")
    return make_table("Zero-shot tasks, item by item", titles, rows) if rows else None


def list_parent(parent: ModelIdentity) -> tuple[Term, ...]:
    """Say which model the parent is."""
    terms = {
        "Parent": Cell(parent.source, code=True),
        "Revision": Cell(parent.revision or "", code=True),
        "Digest": Cell(parent.digest, code=True),
        "Measured in": Cell(f"{parent.dtype} on {parent.device}"),
    }
    return tuple(Term(name, (cell,)) for name, cell in terms.items() if cell.text)


def list_points(points: Sequence[LayerPoint]) -> Table:
    """List the figures behind the chart of activations."""
    values = {(point.layer, point.series): point.value for point in points}
    rows = [
        text_row(
            format_number(layer),
            *(
                format_number(values[layer, series]) if (layer, series) in values else NOTHING
                for series in (INTACT, TOUCHED)
            ),
        )
        for layer in sorted({point.layer for point in points})
    ]
    return make_table("Magnitude after each layer", ("#Layer", "#Parent", "#This model"), rows)


def list_noises(points: Sequence[NoisePoint]) -> Table:
    """List the figures behind the chart of noise."""
    values = {(point.layer, point.series): point.decibels for point in points}
    rows = []
    for layer in sorted({point.layer for point in points}):
        cells = []
        for series in (TOUCHED, INTACT):
            decibels = values.get((layer, series))
            missing = NOT_FINITE if (layer, series) in values else NOTHING
            cells.append(missing if decibels is None else format_number(round(decibels, 1)))
        rows.append(text_row(format_number(layer), *cells))
    titles = ("#Layer", "#All layers so far, dB", "#This layer alone, dB")
    return make_table("Noise to signal in the residual stream", titles, rows)


def format_change(value: float | None, parent: float) -> str:
    """Write how far a value is from the parent's, as signed percent; below -100 its sign has turned."""
    if value is None or not parent:
        return NOTHING
    shown = format_percent(value / parent - 1)
    return f"+{shown}" if value / parent > 1 else shown


def _list_text(label: str, text: ComparedText, verdicts: Sequence[Verdict]) -> Table:
    parent, held = text.measured(PARENT), find_ratio(verdicts, label)
    rows = []
    for measured in text.measurements:
        name = measured.arm.name
        ratio = divide_perplexity(measured, parent)
        span = format_interval(held.low, held.high, held.limit) if held and name == DESCENDANT else ""
        rows.append(
            text_row(
                name_part(name) if name in (PARENT, DESCENDANT) else f"{name_part(name)} put back",
                _finite(measured.loss.perplexity),
                NOT_FINITE if ratio is None else format_ratio(ratio),
                span or NOTHING,
                *_write_agreement(measured),
                _finite(measured.stop_words.mean_mass) if measured.stop_words else NOTHING,
                format_percent(measured.choices.accuracy) if measured.choices else NOTHING,
            )
        )
    titles = (
        "Model", "#Perplexity", "#Ratio", "#Interval", "#Mean KL, nats", "#Median", "#99 %", "#Largest",
        "#Same top token", "#Stop-word mass", "#Accuracy",
    )  # fmt: skip
    return make_table(f"On the text {label}, under protocol {text.protocol.signature}", titles, rows)


def _write_agreement(measured: Measurement) -> tuple[str, ...]:
    found = measured.agreement
    if measured.arm.name == PARENT or not sum(found.tokens):
        return (NOTHING,) * 5
    spread = found.spread
    tail = [format_number(end, 3) for end in (spread.median, spread.p99, spread.maximum)] if spread else []
    mean = found.mean_divergence
    return (
        NOT_FINITE if mean is None else format_number(mean, 3),
        *(tail or [NOTHING] * 3),
        format_percent(found.top1),
    )


def _write_share(one: Recovered) -> tuple[str, str]:
    # Of a loss that is not finite there is no share.
    if one.share is None or one.share.value is None:
        return NOTHING, NOTHING
    ends = [one.share.low, one.share.high]
    low, high = (NOTHING if end is None else format_percent(end) for end in ends)
    return format_percent(one.share.value), NOTHING if None in ends else f"[{low}, {high}]"


def _span(values: Sequence[float], digits: int = 4) -> str:
    if not values:
        return NOTHING
    ends = sorted((min(values), max(values)), key=abs)
    return " to ".join(dict.fromkeys(format_number(end, digits) for end in ends))


def _finite(value: float | None) -> str:
    return NOT_FINITE if value is None else format_number(value)
