"""What an engine says of tokens is what a plain pass of the model says, however sequences are put together."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.readings import find_both_ways

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.measure.decisions import Question, Questions, measure_margins
from sw_audit.measure.scoring import ScoredSequence, score_sequences
from sw_audit.policy.policy import ModelPolicy
from sw_audit.specimen.shipped import specimen_path

TOKENS = st.lists(st.integers(0, 20), min_size=2, max_size=7)


@cache
def open_specimen() -> Checkpoint:
    return open_checkpoint(ModelPolicy(source=str(specimen_path())))


@pytest.fixture
def opened() -> Checkpoint:
    return open_specimen()


def score_plainly(checkpoint: Checkpoint, one: ScoredSequence) -> float:
    with torch.no_grad():
        logits = checkpoint.model(torch.tensor([one.token_ids])).logits[0].log_softmax(-1)
    return sum(float(logits[place - 1, one.token_ids[place]]) for place in range(one.first, len(one.token_ids)))


@settings(deadline=None, max_examples=25)
@given(asked=st.lists(st.tuples(TOKENS, st.integers(1, 6)), min_size=1, max_size=8))
def test_sums_are_those_of_a_plain_pass(asked: list[tuple[list[int], int]]) -> None:
    opened = open_specimen()
    sequences = [ScoredSequence(tuple(ids), min(first, len(ids) - 1)) for ids, first in asked]
    expected = [score_plainly(opened, one) for one in sequences]
    assert score_sequences(opened, sequences) == pytest.approx(expected, abs=1e-4)


def test_openings_that_share_all_but_their_last_token_are_run_once(
    opened: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    forward = opened.model.forward

    def count(*given: object, input_ids: torch.Tensor, **named: object) -> object:
        ran.append(len(input_ids))
        return forward(*given, input_ids=input_ids, **named)

    monkeypatch.setattr(opened.model, "forward", count)
    score_sequences(opened, [ScoredSequence((5, 6), 1)])  # whatever is asked once of a model is asked here
    ran.clear()
    # One pass to the layers and one of the head: what another begins with is none of its own.
    score_sequences(
        opened, [ScoredSequence((5, 6, 7, token), 3) for token in (8, 9)] + [ScoredSequence((5, 6), 1)]
    )
    assert ran == [1, 1]
    ran.clear()
    score_sequences(opened, [ScoredSequence((5, 6, 7, 8), 3), ScoredSequence((9, 6, 8), 2)])
    assert len(ran) == 4  # two lengths


def test_a_token_that_the_model_does_not_know_is_not_a_number(opened: Checkpoint) -> None:
    unknown, known = score_sequences(
        opened, [ScoredSequence((5, opened.vocabulary), 1), ScoredSequence((5, 6), 1)]
    )
    assert math.isnan(unknown)
    assert math.isfinite(known)
    assert math.isnan(score_sequences(opened, [ScoredSequence((5, opened.vocabulary), 1)])[0])


def test_a_model_that_is_read_as_it_runs_says_the_same_and_is_read_once() -> None:
    sequences = [ScoredSequence(tuple(range(5, 5 + length)), length - 1) for length in (3, 4, 5, 6)]
    ours, whole, readings = find_both_ways(lambda checkpoint: score_sequences(checkpoint, sequences))
    assert ours == whole
    assert readings <= {1, 2}  # the first layer once more, to learn what layers return


def test_a_margin_is_the_log_sum_exp_of_one_set_less_that_of_the_other(opened: Checkpoint) -> None:
    openings = (((5,), (6, 7)), ((8,),))
    [[margin]] = measure_margins(opened, [Questions("k", ("a", "b"), (Question("q", (3, 4), openings),))])
    nats = [score_plainly(opened, ScoredSequence((3, 4, *ids), 2)) for side in openings for ids in side]
    assert margin == pytest.approx(math.log(math.exp(nats[0]) + math.exp(nats[1])) - nats[2], abs=1e-4)


def test_a_margin_without_a_number_is_missing(opened: Checkpoint) -> None:
    openings = (((5,), (opened.vocabulary,)), ((8,),))
    asked = [
        Questions("k", ("a", "b"), (Question("q", (3, 4), openings),)),
        Questions("l", ("a", "b"), skipped="so"),
    ]
    assert measure_margins(opened, asked) == ((None,), ())
