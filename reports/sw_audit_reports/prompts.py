"""The section on what other prompts do to a model's super activations, and on the one that breaks them."""

from __future__ import annotations

from collections.abc import Sequence

from sw_audit.record.location import Location, PromptTrace, SuperActivation
from sw_audit.record.prompt_search import BreakingPrompt, PromptSearch
from sw_audit.record.record import ModelResult
from sw_audit_reports.page import Cell, OtherPrompts, Table, Term, make_table, split_code, text_row
from sw_audit_reports.text import NOT_FINITE, NOTHING, count, format_number


def build_prompts(evidence: ModelResult) -> OtherPrompts | None:
    """Build the section of one model.

    Args:
        evidence: What was found and measured.

    Returns:
        `None` where no super activation was followed on another prompt, nor one searched for that breaks it.
    """
    traces, search, location = evidence.persistence, evidence.prompt_search, evidence.location
    if not traces and search is None:
        return None
    told = [_tell_traces(traces, activation) for activation in location.super_activations]
    found = search.found if search else None
    return OtherPrompts(
        told=(*_say(" ".join(sentence for sentence in told if sentence)), *_say(_tell_search(search))),
        breaking=_describe_breaking(found) if found else (),
        layers=_list_layers(found, location) if found else None,
        prompts=_list_prompts(traces, location),
    )


def _say(sentence: str) -> tuple[Cell, ...]:
    return (*split_code(sentence), Cell(" ")) if sentence else ()


def _tell_traces(traces: Sequence[PromptTrace], activation: SuperActivation) -> str:
    own = [trace for trace in traces if trace.channel == activation.channel]
    values = [value for trace in own for value in _cut(trace, activation) if value is not None]
    if not values:
        return ""
    ends = [format_number(end) for end in sorted((min(values), max(values)), key=abs)]
    lengths = [format_number(pick(trace.tokens for trace in own)) for pick in (min, max)]
    layers = [format_number(layer) for layer in (activation.first_layer, activation.last_layer)]
    where = f"in {'layer' if layers[0] == layers[1] else 'layers'} {_span(layers)}"
    held = f"channel {activation.channel} holds {_span(ends)} {where}"
    return f"On {count(len(own), 'prompt')} of {_span(lengths)} tokens {held}."


def _span(ends: Sequence[str]) -> str:
    return " to ".join(dict.fromkeys(ends))


def _tell_search(search: PromptSearch | None) -> str:
    if search is None:
        return ""
    if search.omitted is not None:
        return f"No other prompt was tried: {search.omitted}."
    if search.stopped is not None:
        return f"The search for a prompt that breaks this ended on one where {search.stopped}."
    kinds = "tokens at random, runs of the vocabulary, one token over and over"
    if search.found is None:
        return f"None of up to {search.examples} others ({kinds}) breaks this."
    return f"A search among up to {search.examples} others ({kinds}) found one that breaks this:"


def _describe_breaking(found: BreakingPrompt) -> tuple[Term, ...]:
    length = count(len(found.token_ids), "token")
    shown = Cell(found.prompt, code=True) if found.prompt.strip() else Cell("no visible text")
    return (
        Term("Shortest prompt that breaks it", (shown,)),
        Term("Its tokens", (Cell(", ".join(map(str, found.token_ids)), code=True), Cell(f" ({length})"))),
        Term("What breaks", split_code(found.because)),
    )


def _list_layers(found: BreakingPrompt, location: Location) -> Table:
    located = {one.channel: one for one in location.super_activations}
    rows = [
        text_row(
            format_number(layer),
            format_number(trace.channel),
            format_number(located[trace.channel].value),
            NOT_FINITE if value is None else format_number(value),
            format_number(peak),
        )
        for trace in found.traces
        if trace.channel in located
        for layer, (value, peak) in enumerate(zip(trace.values, trace.peaks, strict=True))
        if located[trace.channel].first_layer <= layer <= located[trace.channel].last_layer
    ]
    titles = ("#Layer", "#Channel", "#Located", "#Here", "#At token")
    return make_table("The super activation on the prompt that breaks it", titles, rows)


def _list_prompts(traces: Sequence[PromptTrace], location: Location) -> Table | None:
    located = {one.channel: one for one in location.super_activations}
    rows = []
    for trace in traces:
        activation = located.get(trace.channel)
        values = [value for value in _cut(trace, activation) if value is not None]
        places = sorted({*_cut_peaks(trace, activation)})
        ends = sorted((min(values), max(values)), key=abs) if values else []
        rows.append(
            text_row(
                trace.prompt,
                *(format_number(figure) for figure in (trace.tokens, trace.channel)),
                ", ".join(format_number(place) for place in places) or NOTHING,
                *([format_number(end) for end in ends] or [NOT_FINITE, NOT_FINITE]),
            )
        )
    titles = ("Prompt", "#Tokens", "#Channel", "#At token", "#Least value", "#Largest value")
    return make_table("The super activations on other prompts", titles, rows) if rows else None


def _cut(trace: PromptTrace, activation: SuperActivation | None) -> tuple[float | None, ...]:
    """Return the channel's values in the layers that the super activation rides through."""
    return trace.values if activation is None else trace.values[activation.first_layer : activation.last_layer + 1]


def _cut_peaks(trace: PromptTrace, activation: SuperActivation | None) -> tuple[int, ...]:
    return trace.peaks if activation is None else trace.peaks[activation.first_layer : activation.last_layer + 1]
