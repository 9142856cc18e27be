"""Tables of what was found in one model, and of the figures behind its charts."""

from __future__ import annotations

from collections.abc import Sequence

from sw_audit.record.arm import BASELINE
from sw_audit.record.identity import ModelIdentity
from sw_audit.record.location import Location
from sw_audit.record.lookup import Lookup
from sw_audit.record.measurement import Measurement
from sw_audit.record.record import ModelResult
from sw_audit_reports.page import Cell, Table, make_table, text_row
from sw_audit_reports.series import INTACT, SPIKE, TOUCHED, LayerPoint, RecipePoint
from sw_audit_reports.text import (
    NOT_FINITE,
    NOTHING,
    format_bytes,
    format_interval,
    format_number,
    format_percent,
)


def list_super_weights(location: Location) -> Table | None:
    """List the super weights with coordinate, value and share."""
    rows = [
        text_row(
            Cell(str(weight.address), code=True),
            *(format_number(place) for place in (weight.layer, weight.row, weight.column)),
            format_number(weight.value, 5),
            format_percent(weight.share),
        )
        for weight in location.super_weights
    ]
    titles = ("Scalar", "#Layer", "#Row", "#Column", "#Value", "#Share of the spike")
    return make_table("Super weights", titles, rows) if rows else None


def list_witness(location: Location) -> Table | None:
    """List what the weights alone say of each super weight."""
    if location.weight_norm_prediction is None:
        return None
    rows = [
        text_row(
            Cell(_name_candidate(one.parameter, one.row, one.column, one.expert), code=True),
            f"{format_number(one.row_rank)} of {format_number(one.rows)}",
            NOTHING if one.row_ratio is None else format_number(one.row_ratio, 3),
            f"{format_number(one.column_rank)} of {format_number(one.columns)}",
            NOTHING if one.share is None else format_percent(one.share),
            "yes" if one.agrees else "no",
        )
        for one in location.weight_norm_prediction.weights
    ]
    titles = ("Scalar", "#Row's rank", "#Row over median", "#Column's rank", "#Column's share", "Agrees")
    return make_table("Second opinion: the weights alone, without a forward pass", titles, rows) if rows else None


def list_super_activations(location: Location) -> Table | None:
    """List the super activations with channel, token, value and the layers they ride through."""
    rows = [
        text_row(
            *(format_number(place) for place in (found.channel, found.token)),
            format_number(found.value),
            f"{found.first_layer} to {found.last_layer}",
        )
        for found in location.super_activations
    ]
    titles = ("#Channel", "#Token", "#Value", "#Layers")
    return make_table("Super activations", titles, rows) if rows else None


def list_candidates(location: Location) -> Table | None:
    """List what was looked at, with the reason why it is or is not a super weight."""
    rows = [
        text_row(
            Cell(_name_candidate(found.parameter, found.row, found.column, found.expert), code=True),
            "taken" if found.accepted else "turned down",
            *(format_number(value) for value in (found.input_value, found.weight, found.output_value)),
            format_percent(found.share),
            found.because,
        )
        for found in location.candidates
    ]
    titles = ("Scalar", "Outcome", "#Input", "#Weight", "#Output", "#Share", "Why")
    return make_table("Candidates, looked at one by one", titles, rows) if rows else None


def list_sources(lookup: Lookup | None) -> Table | None:
    """List what the keys mean by which the check of published coordinates names its sources."""
    if lookup is None or lookup.model is None or not lookup.sources:
        return None
    rows = [
        text_row(Cell(source.key, code=True), f"{source.reference}. {source.note}".rstrip(), source.trust)
        for source in lookup.sources
    ]
    return make_table(f"Sources on {lookup.model.id}", ("Key", "Source", "Trust"), rows)


def list_layers(points: Sequence[LayerPoint]) -> Table:
    """List the figures behind the chart of layers, a column for each series that there is."""
    values = {(point.layer, point.series): point.value for point in points}
    names = {
        INTACT: "#As it is",
        TOUCHED: "#Super weights zeroed",
        SPIKE: "#Down-projection output, raw",
    }
    shown = [series for series in names if any(point.series == series for point in points)]
    rows = [
        text_row(
            format_number(layer),
            *(format_number(values[layer, series]) if (layer, series) in values else NOTHING for series in shown),
        )
        for layer in sorted({point.layer for point in points})
    ]
    titles = ("#Layer", *(names[series] for series in shown))
    return make_table("Largest absolute activation", titles, rows)


def list_measurements(evidence: ModelResult) -> Table:
    """List what was measured in every arm."""
    baseline = evidence.measured(BASELINE.name)
    base = baseline.loss.perplexity if baseline else None
    rows = [_list_measurement(measured, base) for measured in evidence.measurements]
    titles = (
        "Arm", "#Perplexity", "#Ratio", "#Divergence, nats", "#Same top token", "#Stop-word mass", "#Accuracy",
    )  # fmt: skip
    return make_table("What was measured in every arm", titles, rows)


def list_recipes(points: Sequence[RecipePoint]) -> Table:
    """List the figures behind the chart of recipes."""
    rows = [
        text_row(
            Cell(point.recipe, code=True),
            "held out" if point.series == INTACT else "plain",
            NOT_FINITE if point.ratio.value is None else format_number(point.ratio.value),
            format_interval(point.ratio.low, point.ratio.high) or NOTHING,
            NOTHING if point.limit is None else format_number(point.limit),
        )
        for point in points
    ]
    titles = ("Recipe", "Super weights", "#Perplexity ratio", "#Interval", "#Limit")
    return make_table("Perplexity ratio to full precision", titles, rows)


def list_files(model: ModelIdentity) -> Table:
    """List the weight files with their digests."""
    rows = [
        text_row(Cell(one.path, code=True), format_bytes(one.size), Cell(one.sha256, code=True))
        for one in model.files
    ]
    return make_table("Weight files", ("File", "#Size", "sha256"), rows)


def _list_measurement(measured: Measurement, base: float | None) -> tuple[Cell, ...]:
    perplexity, agreement = measured.loss.perplexity, measured.agreement
    words, choices = measured.stop_words, measured.choices
    return text_row(
        Cell(measured.arm.name, code=True),
        _finite(perplexity),
        _finite(perplexity / base if perplexity is not None and base else None),
        _finite(agreement.mean_divergence),
        format_percent(agreement.top1) if sum(agreement.tokens) else NOTHING,
        _finite(words.mean_mass) if words else NOTHING,
        format_percent(choices.accuracy) if choices and choices.correct else NOTHING,
    )


def _finite(value: float | None) -> str:
    return NOT_FINITE if value is None else format_number(value)


def _name_candidate(parameter: str, row: int, column: int, expert: int | None) -> str:
    return f"{parameter}[{'' if expert is None else f'expert {expert}, '}{row}, {column}]"
