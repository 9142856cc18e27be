"""`sw-audit diff`: what changed between two records, and an exit code that a pipeline can use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.evidence import HEALTHY, compose, judge_model, make_evidence, make_policy
from support.program import Ending, Program

from sw_audit.cli import diff
from sw_audit.policy.policy import Policy
from sw_audit.record.measurement import TokenLoss
from sw_audit.record.record import ModelResult, Record
from sw_audit.record.store import encode_record, keep_baseline


def wrap(evidence: ModelResult, policy: Policy | None = None) -> Record:
    """Judge evidence and put it into a record."""
    policy = policy or make_policy("a")
    return compose(judge_model(evidence, policy), policy=policy)


def worsen(evidence: ModelResult, times: float) -> ModelResult:
    """Make nats of every window of every arm that many times what they were."""

    def scale(loss: TokenLoss) -> TokenLoss:
        return TokenLoss(nats=tuple(one and one * times for one in loss.nats), tokens=loss.tokens)

    measured = tuple(one.model_copy(update={"loss": scale(one.loss)}) for one in evidence.measurements)
    return evidence.model_copy(update={"measurements": measured})


@pytest.fixture
def compare(program: Program) -> object:
    """Write two records and compare them."""

    def run(before: Record, after: Record, *options: str) -> Ending:
        keep_baseline("before", before)
        (program.folder / "after.json").write_text(encode_record(after), encoding="utf-8")
        # These records were made up, and not all of their verdicts follow.
        return program.run("diff", "before", "after.json", "--unverified", *options)

    return run


HEALTHY_MODEL = make_evidence("a", ratios=HEALTHY, policy=make_policy("a"))


def test_nothing_changed_ends_with_0(compare: object) -> None:
    ending = compare(wrap(HEALTHY_MODEL), wrap(HEALTHY_MODEL))  # type: ignore[operator]
    assert (ending.code, ending.out, ending.err) == (0, "SAME: nothing changed\n", "")


def test_a_check_that_fails_now_ends_with_1_and_stands_first(compare: object) -> None:
    ratios = {**HEALTHY, "pruned": 3.0}
    after = wrap(make_evidence("a", ratios=ratios, policy=make_policy("a")))
    ending = compare(wrap(HEALTHY_MODEL), after)  # type: ignore[operator]
    assert ending.code == 1
    rows = [line.split() for line in ending.out.splitlines() if " check " in line]
    assert rows[0][:6] == ["worse", "a", "check", "prune-collapses", "PASS", "213.6"]
    assert ending.out.splitlines()[-1].startswith("WORSE: ")
    back = compare(after, wrap(HEALTHY_MODEL))  # type: ignore[operator]
    assert back.code == 0
    assert "NOT WORSE: 0 worse" in back.out


@pytest.mark.parametrize(("times", "code", "word"), [(1.01, 0, "PASS"), (1.3, 1, "FAIL"), (0.9, 0, "PASS")])
def test_perplexity_is_held_against_the_earlier_one_by_the_limit_of_the_policy(
    compare: object, times: float, code: int, word: str
) -> None:
    # Nats per token are ln 6.25 = 1.833: times 1.01 is a ratio of 1.018, times 1.3 of 1.73, limit 1.1.
    ending = compare(wrap(HEALTHY_MODEL), wrap(worsen(HEALTHY_MODEL, times)), "--json")  # type: ignore[operator]
    document = json.loads(ending.out)
    [change] = [one for one in document["changes"] if one["what"].startswith("perplexity")]
    assert change["what"] == f"perplexity ({word})"
    assert change["worse"] is (True if word == "FAIL" else None)
    assert ending.code == code
    assert document["worse"] == sum(one["worse"] is True for one in document["changes"])


def test_perplexity_under_another_protocol_is_not_compared(compare: object) -> None:
    other = HEALTHY_MODEL.protocol.model_copy(update={"seed": 9})
    changed = worsen(HEALTHY_MODEL, 2.0).model_copy(update={"protocol": other})
    ending = compare(wrap(HEALTHY_MODEL), wrap(changed))  # type: ignore[operator]
    assert "perplexity (" not in ending.out
    assert "seed 0 then, 9 now" in " ".join(ending.out.split())


def test_a_record_that_is_not_there_is_one_line_and_2(program: Program) -> None:
    ending = program.run("diff", "before", "after.json")
    assert (ending.code, ending.out) == (2, "")
    [line] = ending.complaints
    assert line.startswith("sw-audit: baseline 'before': there is none in")
    keep_baseline("before", wrap(HEALTHY_MODEL))
    gone = program.run("diff", "before", "after.json")
    assert (gone.code, gone.complaints) == (
        2,
        ["sw-audit: record after.json: No such file or directory; give record.json or report.html"],
    )
    Path("bad.json").write_text("{}", encoding="utf-8")
    assert program.run("diff", "before", "bad.json").code == 2


@pytest.mark.parametrize("error", [ZeroDivisionError("by 0"), KeyError("b"), ValueError("zip()")], ids=str)
def test_facts_that_do_not_fit_together_are_one_line_and_2(
    compare: object, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_rest: object) -> None:
        raise error

    monkeypatch.setattr(diff, "compare_records", fail)
    ending = compare(wrap(HEALTHY_MODEL), wrap(HEALTHY_MODEL))  # type: ignore[operator]
    assert (ending.code, ending.out) == (2, "")
    [line] = ending.complaints
    problem = f"what it holds does not fit together ({type(error).__name__}: {error})"
    assert line.startswith(f"sw-audit: record before or after.json: {problem}; give")
