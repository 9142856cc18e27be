"""A model in the program that its users run it in, beside what transformers makes of the same files."""

from __future__ import annotations

from collections.abc import Iterator

from sw_audit.record.arm import BASELINE, DEQUANTIZED
from sw_audit.record.engine import EngineResult
from sw_audit.record.labels import label_arm
from sw_audit.record.record import ModelResult
from sw_audit_reports.elements import Badge, Element, Table, figures, make_paragraph, make_table, make_terms, text
from sw_audit_reports.sections import Context, section
from sw_audit_reports.text import NOTHING, count, format_finite, format_number, format_percent, format_ratio
from sw_audit_reports.verdicts import estimate_ratio

_LONGEST = 200
"""Characters of a conversation that are shown where two programs write it in two ways."""


@section("engine", title="In its engine", order=35)
def show_engine(context: Context) -> Iterator[Element | None]:
    """Say which engine measured the model, what it gives beside transformers, and how it cuts and writes texts."""
    engine = context.result.engine
    if engine is None:
        return
    yield make_paragraph(
        f"Perplexity, divergence and continuations on this page are those of {engine.identity.label}, not of "
        "transformers. What has to change or watch something inside the model was not measured."
    )
    identity = engine.identity
    yield make_terms(
        {
            "Served as": identity.served,
            "Vocabulary": f"{identity.vocabulary:,} tokens",
            "Told of a place": "all tokens"
            if identity.top_tokens is None
            else f"the {count(identity.top_tokens, 'likeliest token')}, and the one that follows",
            **{name.replace("_", " ").capitalize(): value for name, value in identity.settings.items()},
        }
    )
    yield _list_arms(context.result)
    yield from _tell_texts(engine)
    if engine.untold:
        yield make_paragraph(f"Not compared: {engine.untold}.")
    for note in engine.notes:
        yield make_paragraph(note)


def _list_arms(result: ModelResult) -> Table | None:
    baseline, rows = result.measured(BASELINE.purpose), []
    for measured in result.measurements:
        agreement, own = measured.agreement, measured.arm == BASELINE
        rows.append(
            (
                "In the engine" if own else label_arm(measured.arm),
                format_number(sum(measured.loss.tokens)),
                format_finite(measured.loss.perplexity),
                format_finite(estimate_ratio(measured, baseline).value, format_ratio),
                NOTHING if own else format_finite(agreement.mean_divergence, format_number, 3),
                NOTHING if own or not sum(agreement.tokens) else format_percent(agreement.top1),
            )
        )
    heads = figures("Tokens", "Perplexity", "Ratio", "Mean KL, nats", "Same top token")
    caption = "The same tokens in each way"
    compared = result.measured(DEQUANTIZED)
    if compared is not None and compared.agreement.top_tokens is not None:
        caption += f"; divergence of the {compared.agreement.top_tokens} likeliest tokens, all others as one"
    return make_table(caption, [*text("Way"), *heads], rows)


def _tell_texts(engine: EngineResult) -> Iterator[Element | None]:
    alike, apart = Badge("pass", "Alike"), Badge("fail", "Apart")
    rows = [
        (
            one.text[:60],
            format_number(one.tokens),
            format_number(one.engine_tokens),
            alike if one.first_difference is None else apart,
            NOTHING if one.first_difference is None else format_number(one.first_difference),
        )
        for one in engine.tokenized
    ]
    heads = figures("Tokens by the files", "By the engine")
    columns = [*text("Text"), *heads, *text("Standing"), *figures("From token")]
    yield make_table("How both cut texts", columns, rows)
    other = [
        (one.expected[:_LONGEST], one.because if one.found is None else one.found[:_LONGEST])
        for one in engine.chats
        if one.found != one.expected
    ]
    if engine.chats and not other:
        yield make_paragraph(f"Both write {count(len(engine.chats), 'conversation')} alike.")
    yield make_table("Conversations that they write otherwise", text("By the files", "By the engine"), other)
