"""Where the super weights are: coordinates, what the weights alone predict, every candidate, published sources."""

from __future__ import annotations

from collections.abc import Iterator

from sw_audit.record.arm import BASELINE, PRUNED
from sw_audit.record.location import Location, Outcome, SuperActivation
from sw_audit.record.published import Lookup
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status, Verdict
from sw_audit_reports.elements import Cell, Element, Table, Words, code, figures, make_paragraph, make_table, text
from sw_audit_reports.sections import Context, section
from sw_audit_reports.text import (
    count,
    format_finite,
    format_interval,
    format_number,
    format_optional,
    format_percent,
    join_words,
    spell,
)
from sw_audit_reports.verdicts import find_verdict

_NAMED_AT_MOST = 2


def summarize_location(context: Context) -> Words:
    """Say in a sentence what was found in a model and what zeroing it does."""
    location = context.result.location
    reason = location.because.rstrip(".")
    if location.outcome is Outcome.NONE:
        return [f"No super weight was found: {reason}."]
    if location.outcome is Outcome.DISTRIBUTED:
        return [f"A massive activation was found, but no handful of scalars explains it: {reason}."]
    number = len(location.super_weights)
    single = number == 1
    named = _name_coordinates(location)
    verdict = find_verdict(context.verdicts, "ratio", PRUNED)
    effect = _describe_effect(context.result, verdict)
    located = f"{spell(number)} super {'weight was' if single else 'weights were'} located"
    if effect is None:
        return [f"{located}, ", *named, f"; what zeroing {'it' if single else 'them'} does is not known."]
    match verdict.status if verdict else None:
        case Status.PASS:
            subject = f"{spell(number)} {'scalar carries' if single else 'scalars carry'} this model"
            return [f"{subject}: zeroing ", *named, f" {effect}."]
        case Status.FAIL:
            return [f"{located}, but zeroing ", *named, f" only {effect}."]
        case _:
            return [f"{located}: zeroing ", *named, f" {effect}."]


def _name_coordinates(location: Location) -> Words:
    weights = location.super_weights
    if len(weights) > _NAMED_AT_MOST:
        layers = sorted({weight.layer for weight in weights})
        where = join_words([format_number(layer) for layer in layers])
        return [f"all of them (in {'layer' if len(layers) == 1 else 'layers'} {where})"]
    cells = [code(weight.address) for weight in weights]
    return cells if len(cells) == 1 else [cells[0], " and ", cells[1]]


def _describe_effect(result: ModelResult, verdict: Verdict | None) -> str | None:
    """Say what zeroing does to perplexity, from the verdict's figure or else from the measurements."""
    pruned, baseline = (result.measured(purpose) for purpose in (PRUNED, BASELINE.purpose))
    if pruned is None or baseline is None or baseline.loss.perplexity is None:
        return None
    if pruned.loss.perplexity is None:
        return "leaves no finite perplexity"
    ratio, interval = pruned.loss.ratio_to(baseline.loss), ""
    if verdict is not None and verdict.observed is not None:
        ratio, interval = verdict.observed, format_interval(verdict.low, verdict.high)
    return f"multiplies perplexity by {format_finite(ratio)} {interval}".rstrip()


@section("location", title="What was found in it", order=65, summarize=summarize_location)
def show_location(context: Context) -> Iterator[Element | None]:
    """List the super weights and super activations, and what speaks for and against them."""
    location = context.result.location
    yield make_paragraph(f"{location.outcome}: {location.because}")
    remarks = [
        f"{remark[0].upper()}{remark[1:]}." for remark in (location.agreement, location.beginning) if remark
    ]
    yield make_paragraph([" ".join(remarks)] if remarks else [])
    if location.rotation is not None:
        yield make_paragraph(f"{str(location.rotation)[0].upper()}{str(location.rotation)[1:]}.")
    weights = []
    for weight in location.super_weights:
        value, share = format_number(weight.value, 5), format_percent(weight.share)
        weights.append((code(weight.address), weight.layer, weight.row, weight.column, value, share))
    heads = [*text("Scalar"), *figures("Layer", "Row", "Column", "Value", "Share of the spike")]
    yield make_table("Super weights", heads, weights)
    yield list_predicted(location)
    heads = figures("Channel", "Token", "Value", "Layers", "Taken down in", "Left")
    yield make_table(
        "Super activations", heads, [_describe_activation(held) for held in location.super_activations]
    )
    yield list_stages(location)
    yield _list_candidates(location)
    yield list_sources(context.result.published)


def list_stages(location: Location) -> Table | None:
    """List what the super activations' channels carried before, and the scalars that made it."""
    rows = [
        (*_describe_activation(stage), code(cause.address), format_percent(cause.share))
        for stage in location.earlier_stages
        for cause in stage.causes
    ]
    heads = [
        *figures("Channel", "Token", "Value", "Layers", "Taken down in", "Left"),
        *text("Scalar"),
        *figures("Share of the stage"),
    ]
    return make_table("Made before, taken down and made again", heads, rows)


def _describe_activation(held: SuperActivation) -> tuple[str | Cell | float | None, ...]:
    gone = held.taken_down
    return (
        held.channel,
        held.token,
        held.value,
        f"{held.first_layer} to {held.last_layer}",
        "-" if gone is None else f"{gone.first_layer} to {gone.last_layer}",
        format_optional(None if gone is None else gone.left, format_percent),
    )


def list_predicted(location: Location) -> Table | None:
    """List what the weights alone say of each super weight."""
    prediction = location.weight_norm_prediction
    rows = [
        (
            _name_scalar(weight.parameter, weight.row, weight.column, weight.expert),
            f"{format_number(weight.row_rank)} of {format_number(weight.rows)}",
            format_optional(weight.row_ratio, format_number, 3),
            f"{format_number(weight.column_rank)} of {format_number(weight.columns)}",
            format_optional(weight.share, format_percent),
            "yes" if weight.agrees else "no",
        )
        for weight in (prediction.weights if prediction else ())
    ]
    ranks = figures("Row's rank", "Row over median", "Column's rank", "Column's share")
    caption = "Predicted from the weights alone, without a forward pass"
    return make_table(caption, [*text("Scalar"), *ranks, *text("Agrees")], rows)


def _list_candidates(location: Location) -> Table | None:
    candidates = location.candidates
    rows = [
        (
            _name_scalar(candidate.parameter, candidate.row, candidate.column, candidate.expert),
            "taken" if candidate.accepted else "turned down",
            candidate.input_value,
            candidate.weight,
            candidate.output_value,
            format_percent(candidate.share),
            candidate.because,
        )
        for candidate in candidates
    ]
    heads = [*text("Scalar", "Outcome"), *figures("Input", "Weight", "Output", "Share"), *text("Why")]
    refused = sum(not candidate.accepted for candidate in candidates)
    fold = f"{count(len(candidates), 'candidate')} looked at, {refused} turned down"
    return make_table("Candidates, looked at one by one", heads, rows, fold=fold)


def _name_scalar(parameter: str, row: int, column: int, expert: int | None) -> Cell:
    return code(f"{parameter}[{'' if expert is None else f'expert {expert}, '}{row}, {column}]")


def list_sources(lookup: Lookup | None) -> Table | None:
    """List the sources of published coordinates, with the keys by which the check names them."""
    if lookup is None or lookup.model is None:
        return None
    rows = [
        (code(known.key), f"{known.reference}. {known.note}".rstrip(), known.trust) for known in lookup.sources
    ]
    fold = "Who has published coordinates of this model"
    return make_table(f"Sources on {lookup.model.id}", text("Key", "Source", "Trust"), rows, fold=fold)
