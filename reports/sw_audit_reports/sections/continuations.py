"""What a model goes on with after each prompt; beside its parent up to where they part and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

from sw_audit.checks.answers_not_longer import write_length
from sw_audit.record.descent import AnswerLength, Continuation
from sw_audit.record.measurement import PromptContinuation
from sw_audit.record.verdict import Status, Verdict
from sw_audit_reports.elements import Block, Element, Table, figures, make_paragraph, make_table, text
from sw_audit_reports.sections import Context, section
from sw_audit_reports.text import count, format_number

_LONGEST = 1_000
"""Characters of a continuation that are shown; a loop is seen in fewer."""


@section("continuations", title="What it goes on with", order=30)
def show_continuations(context: Context) -> Iterator[Element | None]:
    """Show the continuation of each prompt, beside the parent's if there is one, and why where it falls apart."""
    descent, alone = context.result.descent, context.result.continuations
    if alone:
        yield make_paragraph(
            "Greedily: the likeliest token again and again. Small models loop; that alone is no fault."
        )
        faults = list_faults(context.verdicts)
        for single in alone:
            yield show_continuation(single, faults.get(single.label))
    if descent is not None:
        yield table_answers(descent.answers)
    if descent is None or not descent.continuations:
        return
    yield make_paragraph(
        "Greedily, from the same prompt. What is underlined comes after the point at which they part."
    )
    faults = list_faults(context.verdicts)
    for continuation in descent.continuations:
        yield pair_continuation(continuation, faults.get(continuation.label))


def table_answers(answers: Sequence[AnswerLength]) -> Table | None:
    """List how many tokens both models' answers to chat prompts have, those that grew most first."""
    grown = sorted(answers, key=lambda one: one.descendant / max(one.parent, 1), reverse=True)
    rows = [
        [
            one.prompt,
            write_length(one.parent, known=one.parent_ends),
            write_length(one.descendant, known=one.descendant_ends),
        ]
        for one in grown
    ]
    heads = (*text("Chat prompt"), *figures("Parent's tokens to the end", "This model's"))
    return make_table("How long answers are", heads, rows, fold=f"Answers to {count(len(rows), 'chat prompt')}")


def list_faults(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """List why continuations fall apart, by their labels."""
    findings = (finding for verdict in verdicts for finding in verdict.findings)
    return {finding.label: finding.because for finding in findings if finding.status is Status.FAIL}


def show_continuation(continuation: PromptContinuation, fault: str | None) -> Block:
    """Show what a model by itself goes on with, with why it falls apart if it does."""
    text, new_tokens = continuation.text, len(continuation.new_tokens)
    text = f"{text[:_LONGEST]}…" if len(text) > _LONGEST else text
    return Block(
        "continuation.html.j2",
        {
            "title": f"After {count(continuation.tokens, 'token')}, {format_number(new_tokens)} new",
            "prompt": continuation.prompt,
            "sides": [{"name": "This model", "alike": text, "apart": ""}],
            "summary": "" if fault is None else f"It falls apart: {fault}.",
        },
    )


def pair_continuation(continuation: Continuation, fault: str | None) -> Block:
    """Put both continuations of a prompt beside each other, with why the descendant's falls apart if it does."""
    there, here = continuation.parent, continuation.descendant
    alike, longest = _count_alike(there, here), max(len(there), len(here))
    summary = "They never part." if alike == longest else f"They part after {format_number(alike)} new tokens."
    if not continuation.finite:
        summary += f" After {format_number(len(here))} its logits are not finite."
    if fault is not None:
        summary += f" This one falls apart: {fault}."
    texts = {"Parent": continuation.parent_text, "This model": continuation.descendant_text}
    same = _count_alike(*texts.values())
    # Whole words only: a word that begins alike is another word.
    cut = len(texts["Parent"]) if alike == longest else texts["Parent"][:same].rfind(" ") + 1
    shown = {name: f"{text[:_LONGEST]}…" if len(text) > _LONGEST else text for name, text in texts.items()}
    return Block(
        "continuation.html.j2",
        {
            "title": f"After {count(continuation.tokens, 'token')}, {format_number(longest)} new",
            "prompt": continuation.prompt,
            "sides": [{"name": name, "alike": text[:cut], "apart": text[cut:]} for name, text in shown.items()],
            "summary": summary,
        },
    )


def _count_alike(there: Sequence[object], here: Sequence[object]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(there, here, strict=False)))
