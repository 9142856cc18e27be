from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.evidence import make_loss, make_record

from sw_audit.record.measurement import Agreement, ChoiceAccuracy, StopWordMass, TokenLoss
from sw_audit.record.verdict import Status, worst_status

windows = st.lists(st.tuples(st.floats(0, 1e4), st.integers(1, 500)), min_size=1, max_size=12)


def loss_of(pairs: list[tuple[float, int]]) -> TokenLoss:
    return TokenLoss(nats=tuple(nats for nats, _ in pairs), tokens=tuple(tokens for _, tokens in pairs))


@given(first=windows, second=windows)
def test_losses_add_and_the_mean_is_of_tokens_and_not_of_windows(
    first: list[tuple[float, int]], second: list[tuple[float, int]]
) -> None:
    one, other = loss_of(first), loss_of(second)
    both = one + other
    assert both == loss_of(first + second)
    nats = sum(nats for nats, _ in first + second)
    tokens = sum(tokens for _, tokens in first + second)
    assert both.mean_nats == pytest.approx(nats / tokens)


@given(first=windows, second=windows, third=windows)
def test_adding_losses_is_associative_and_has_a_zero(
    first: list[tuple[float, int]], second: list[tuple[float, int]], third: list[tuple[float, int]]
) -> None:
    one, other, last = (loss_of(pairs) for pairs in (first, second, third))
    assert (one + other) + last == one + (other + last)
    assert one + TokenLoss(nats=(), tokens=()) == one


def test_perplexity_is_one_division_and_one_exponential() -> None:
    loss = TokenLoss(nats=(math.log(2) * 3, math.log(2) * 5), tokens=(3, 5))
    assert loss.perplexity == pytest.approx(2)
    # 10 tokens at ln 2 and 1 token at ln 2048: not the mean of 2 and 2048.
    loss = TokenLoss(nats=(10 * math.log(2), math.log(2048)), tokens=(10, 1))
    assert loss.perplexity == pytest.approx(2 ** (21 / 11))


@pytest.mark.parametrize("nats", [(None, 1.0), (1.0, None), (None, None)])
def test_one_window_that_is_not_finite_makes_the_whole_not_finite(nats: tuple[float | None, ...]) -> None:
    loss = TokenLoss(nats=nats, tokens=(1, 1))
    assert loss.mean_nats is None
    assert loss.perplexity is None
    assert (loss + make_loss(2.0)).perplexity is None


def test_a_perplexity_too_large_for_a_number_is_none_and_never_infinite() -> None:
    assert TokenLoss(nats=(701.0,), tokens=(1,)).perplexity is None
    assert TokenLoss(nats=(700.0,), tokens=(1,)).perplexity == pytest.approx(math.exp(700))


def test_without_tokens_there_is_no_figure() -> None:
    empty = TokenLoss(nats=(), tokens=())
    assert empty.mean_nats is None
    assert empty.perplexity is None


def test_windows_and_tokens_come_in_pairs() -> None:
    with pytest.raises(ValidationError, match="2 windows of nats but 1 of tokens"):
        TokenLoss(nats=(1.0, 2.0), tokens=(1,))


def test_agreement_mass_and_accuracy_are_sums_divided_once() -> None:
    agreement = Agreement(divergence=(1.0, 3.0), same_top=(2, 7), tokens=(4, 8))
    assert agreement.mean_divergence == pytest.approx(4 / 12)
    assert agreement.top1 == pytest.approx(9 / 12)
    assert Agreement(divergence=(None, 1.0), same_top=(0, 1), tokens=(1, 1)).mean_divergence is None
    assert StopWordMass(mass=(1.0, 2.0), tokens=(4, 8)).mean_mass == pytest.approx(0.25)
    assert ChoiceAccuracy(correct=(True, False, False, True), chance=0.25).accuracy == 0.5


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [
        ([], Status.SKIPPED),
        ([Status.SKIPPED], Status.SKIPPED),
        ([Status.SKIPPED, Status.PASS], Status.PASS),
        ([Status.PASS, Status.INCONCLUSIVE, Status.SKIPPED], Status.INCONCLUSIVE),
        ([Status.INCONCLUSIVE, Status.FAIL, Status.PASS], Status.FAIL),
    ],
)
def test_the_worst_status_speaks_for_all(statuses: list[Status], worst: Status) -> None:
    assert worst_status(statuses) is worst


def test_a_record_gives_each_model_s_evidence_back() -> None:
    record = make_record(windows=8, items=8)
    assert [model.id for model in record.models] == ["specimen", "broken", "control", "gone"]
    for evidence in record.results:
        assert record.find_model(evidence.id) == evidence
        assert evidence.measurements
        assert {measurement.model for measurement in evidence.measurements} == {evidence.id}
        assert {verdict.model for verdict in evidence.verdicts} == {evidence.id}
        assert evidence.measured("baseline") == evidence.measurements[0]
        assert evidence.measured("no such arm") is None
    with pytest.raises(KeyError):
        record.find_model("gone")
