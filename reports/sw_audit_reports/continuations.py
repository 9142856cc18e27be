"""What parent and descendant go on with after each prompt, side by side, up to where they part and after."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from sw_audit.record.descent import Continuation
from sw_audit.record.verdict import Status, Verdict
from sw_audit_reports.outline import Continued, SplitText
from sw_audit_reports.text import count, format_number

_LONGEST = 1_000
"""Characters of a continuation that are shown; a loop is seen in fewer."""


def pair_continuations(found: Sequence[Continuation], verdicts: Sequence[Verdict]) -> tuple[Continued, ...]:
    """Put both continuations of each prompt beside each other.

    Args:
        found: The continuations.
        verdicts: The verdicts on this model, whose reasons are shown.
    """
    faults = {
        one.label: one.because
        for verdict in verdicts
        if verdict.check == "generation-sane"
        for one in verdict.findings
        if one.status is Status.FAIL
    }
    return tuple(_pair(one, faults.get(_name(one))) for one in found)


def _pair(one: Continuation, fault: str | None) -> Continued:
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one.parent, one.descendant)))  # noqa: B905
    longest = max(len(one.parent), len(one.descendant))
    told = "They never part." if alike == longest else f"They part after {format_number(alike)} new tokens."
    if not one.finite:
        told += f" After {format_number(len(one.descendant))} its logits are not finite."
    if fault is not None:
        told += f" This one falls apart: {fault.partition(';')[0]}."
    there, here = one.parent_text, one.descendant_text
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(there, here, strict=False)))
    # Whole words only: a word that begins alike is another word.
    cut = len(there) if alike == longest else there[:same].rfind(" ") + 1
    return Continued(
        title=f"After {count(one.tokens, 'token')}, {format_number(longest)} new",
        prompt=one.prompt,
        told=told,
        sides=(_part("Parent", there, cut), _part("This model", here, cut)),
    )


def _part(name: str, text: str, cut: int) -> SplitText:
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return SplitText(name, shown[:cut], shown[cut:])


def _name(one: Continuation) -> str:
    """Name a continuation as the check's findings do."""
    return f"prompt of {one.tokens} token{'s' if one.tokens != 1 else ''}, {len(one.parent)} new"
