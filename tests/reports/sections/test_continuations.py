"""What parent and descendant go on with, side by side."""

from __future__ import annotations

from support.descent import make_descent_evidence
from support.sections import build_section, make_context
from sw_audit_reports.sections.continuations import list_faults, pair_continuation

from sw_audit.record.descent import AnswerLength, Continuation
from sw_audit.record.verdict import Finding, Status, Verdict


def test_continuations_part_at_a_whole_word_and_the_fault_is_told() -> None:
    one = Continuation(
        prompt="a fox", tokens=2, parent=(1, 2, 3), descendant=(1, 2, 4),
        parent_text="in the mill", descendant_text="in the milk",
    )  # fmt: skip
    fault = Finding(label="prompt of 2 tokens, 3 new", status=Status.FAIL, because="it loops: badly; it goes on")
    verdict = Verdict(check="generation-sane", model="m", status=Status.FAIL, because="1 of 1", findings=(fault,))
    [reason] = list_faults([verdict]).values()
    parted = pair_continuation(one, reason).values
    assert [(side["alike"], side["apart"]) for side in parted["sides"]] == [
        ("in the ", "mill"),
        ("in the ", "milk"),
    ]
    assert parted["summary"] == "They part after 2 new tokens. This one falls apart: it loops: badly; it goes on."
    alike = one.model_copy(update={"descendant": (1, 2, 3), "descendant_text": "in the mill"})
    same = pair_continuation(alike, None).values
    assert (same["summary"], same["sides"][1]["apart"]) == ("They never part.", "")


def test_answers_are_listed_with_those_that_grew_most_first() -> None:
    ends = {"limit": 64, "parent_ends": True, "descendant_ends": True}
    answers = (
        AnswerLength(prompt="Why?", parent=10, descendant=11, **ends),
        AnswerLength(prompt="How?", parent=9, descendant=64, **{**ends, "descendant_ends": False}),
    )
    built = build_section("continuations", make_context(make_descent_evidence(answers=answers)))
    assert built.rows("How long answers are") == [["How?", "9", "at least 64"], ["Why?", "10", "11"]]
