"""What a text never reached is named by the verdicts that rest on it."""

from __future__ import annotations

from support.evidence import make_evidence, make_policy

from sw_audit.checks.judging import judge_result
from sw_audit.checks.unreached import UNREACHED, describe_unreached
from sw_audit.record.experts import RoutedLayer
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status, Verdict


def route(layer: int, *tokens: int) -> RoutedLayer:
    weights = tuple(count / 2 for count in tokens)
    return RoutedLayer(layer=layer, tokens=tokens, weights=weights, peaks=tuple(count or None for count in tokens))


def judge(*routing: RoutedLayer) -> tuple[ModelResult, tuple[Verdict, ...]]:
    result = make_evidence()
    baseline, *others = result.measurements
    measured = (baseline.model_copy(update={"routing": routing}), *others)
    result = result.model_copy(update={"measurements": measured})
    return result, judge_result(result, make_policy(result.id))


def test_verdicts_that_rest_on_the_text_name_the_experts_it_never_reached_and_no_others_do() -> None:
    _, verdicts = judge(route(1, 5, 0, 7, 0), route(2, 1, 1, 9, 1))
    rests = {verdict.check for verdict in verdicts if verdict.evidence and verdict.evidence.unit == "windows"}
    assert {"prune-collapses", "placebo-harmless"} <= rests
    for verdict in verdicts:
        told = [finding for finding in verdict.findings if finding.label == UNREACHED]
        assert len(told) == (verdict.check in rests)
        for finding in told:
            words = "2 of 4 experts of layer 1 (1, 3) were reached by no token: the text says nothing of them."
            assert (finding.status, finding.because) == (Status.SKIPPED, words)


def test_nothing_else_of_a_verdict_changes_and_where_all_were_reached_nothing_is_said() -> None:
    # Of a layer without experts that are tried, for of those it is told how much was routed to them.
    plain, reached, unreached = (judge(*routing)[1] for routing in ((), (route(2, 5, 7),), (route(2, 5, 0),)))
    assert reached == plain
    assert [(one.status, one.observed, one.because) for one in unreached] == [
        (one.status, one.observed, one.because) for one in plain
    ]


def test_many_layers_and_many_experts_are_counted_and_a_few_are_named() -> None:
    words = describe_unreached([route(layer, *[0] * 12, 4) for layer in range(6)])
    assert words.startswith(
        "12 of 13 experts of layer 0 (0, 1, 2, 3, 4, 5, 6, 7, ...), 12 of 13 experts of layer 1"
    )
    assert words.endswith("layer 3 (0, 1, 2, 3, 4, 5, 6, 7, ...), and some in 2 more layers, were reached by no "
                          "token: the text says nothing of them.")  # fmt: skip
