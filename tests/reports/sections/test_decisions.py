"""What both models decide is listed question by question, those that turned first."""

from __future__ import annotations

from support.descent import judge_descent, make_descent_evidence, make_descent_policy
from support.sections import build_section, make_context

from sw_audit.record.descent import Decision, Decisions


def test_kinds_are_summed_up_and_what_turned_comes_first() -> None:
    margins = [(2.0, 2.5), (-3.0, 0.5), (1.5, None), *[(4.0, 4.0)] * 37]
    decisions = tuple(
        Decision(name=f"q{number}", parent=there, descendant=here) for number, (there, here) in enumerate(margins)
    )
    kinds = (
        Decisions(kind="yes", sides=("yes", "no"), decisions=decisions),
        Decisions(kind="tool", sides=("call", "answer"), skipped="the parent has no chat template"),
    )
    result = make_descent_evidence(decisions=kinds)
    verdict = judge_descent("decisions-kept", result, make_descent_policy())
    built = build_section("decisions", make_context(result, [verdict]))
    rows = built.rows("Decisions beside the parent")
    assert rows[0][:4] == ["yes or no", "40", "40", "5 %"]
    assert rows[1] == ["call or answer", *["-"] * 4, "not asked: the parent has no chat template"]
    listed = built.rows("Yes or no, those that turned or moved most first")
    assert listed[0] == ["q1", "no", "yes", "-3", "0.5"]
    assert listed[1][:3] == ["q2", "yes", "-"]
    assert listed[2][:3] == ["q0", "yes", "yes"]
