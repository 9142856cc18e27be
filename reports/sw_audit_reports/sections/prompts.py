"""What other prompts do to the super activations, and the prompt that breaks them if a search found one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from sw_audit.record.location import BreakingPrompt, Location, PromptSearch, PromptTrace, SuperActivation
from sw_audit_reports.elements import (
    Cell,
    Element,
    Table,
    code,
    figures,
    make_paragraph,
    make_table,
    make_terms,
    split_code,
    text,
)
from sw_audit_reports.sections import Context, section
from sw_audit_reports.text import NOT_FINITE, NOTHING, count, format_finite, format_number, format_range

_Value = TypeVar("_Value")


@section("prompts", title="On other prompts", order=100)
def show_prompts(context: Context) -> Iterator[Element | None]:
    """Compare the super activations on other prompts with those that were located."""
    result, location = context.result, context.result.location
    traces, search = result.persistence, result.prompt_search
    if not traces and search is None:
        return
    followed = " ".join(filter(None, (_summarize_traces(traces, held) for held in location.super_activations)))
    searched = _summarize_search(search)
    yield make_paragraph([*split_code(followed), *([" "] if followed and searched else []), *split_code(searched)])
    breaking = search.found if search else None
    if breaking is not None:
        tokens = ", ".join(map(str, breaking.token_ids))
        prompt = code(breaking.prompt) if breaking.prompt.strip() else Cell("no visible text")
        yield make_terms(
            {
                "Shortest prompt that breaks it": prompt,
                "Its tokens": (code(tokens), f" ({count(len(breaking.token_ids), 'token')})"),
                "What breaks": split_code(breaking.because),
            }
        )
        yield _list_layers(breaking, location)
    yield _list_prompts(traces, location)


def _summarize_traces(traces: Sequence[PromptTrace], activation: SuperActivation) -> str:
    own = [trace for trace in traces if trace.channel == activation.channel]
    values = [value for trace in own for value in _cut(trace.values, activation) if value is not None]
    if not values:
        return ""
    layers = format_range((activation.first_layer, activation.last_layer))
    where = f"in {'layer' if activation.first_layer == activation.last_layer else 'layers'} {layers}"
    tokens = format_range([trace.tokens for trace in own])
    held = f"channel {activation.channel} holds {format_range(values)} {where}"
    return f"On {count(len(own), 'prompt')} of {tokens} tokens {held}."


def _summarize_search(search: PromptSearch | None) -> str:
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


def _list_layers(breaking: BreakingPrompt, location: Location) -> Table | None:
    located = {activation.channel: activation for activation in location.super_activations}
    rows = [
        (layer, trace.channel, activation.value, format_finite(value), peak)
        for trace in breaking.traces
        if (activation := located.get(trace.channel)) is not None
        for layer, (value, peak) in enumerate(zip(trace.values, trace.peaks, strict=True))
        if activation.first_layer <= layer <= activation.last_layer
    ]
    heads = figures("Layer", "Channel", "Located", "Here", "At token")
    return make_table("The super activation on the prompt that breaks it", heads, rows)


def _list_prompts(traces: Sequence[PromptTrace], location: Location) -> Table | None:
    located = {activation.channel: activation for activation in location.super_activations}
    rows = []
    for trace in traces:
        activation = located.get(trace.channel)
        values = [value for value in _cut(trace.values, activation) if value is not None]
        tokens = map(format_number, sorted(set(_cut(trace.peaks, activation))))
        ends = sorted((min(values), max(values)), key=abs) if values else (NOT_FINITE, NOT_FINITE)
        rows.append((trace.prompt, trace.tokens, trace.channel, ", ".join(tokens) or NOTHING, *ends))
    heads = [*text("Prompt"), *figures("Tokens", "Channel", "At token", "Least value", "Largest value")]
    fold = "Every prompt that was followed"
    return make_table("The super activations on other prompts", heads, rows, fold=fold)


def _cut(layers: tuple[_Value, ...], activation: SuperActivation | None) -> tuple[_Value, ...]:
    """Keep the layers that the super activation passes through."""
    return layers if activation is None else layers[activation.first_layer : activation.last_layer + 1]
