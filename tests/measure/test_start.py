from __future__ import annotations

import torch
from support.planted import build_llama
from support.readings import find_both_ways

from sw_audit.corpus.windows import cut_windows
from sw_audit.measure.start import try_starts
from sw_audit.record.start import LOSS_MARGIN, SequenceStart, StartTrial
from sw_audit.testing.families import Numerals, wrap_model

TEXT = [5, 7, 11, 13, 17, 19, 23, 29]


def lose(model: torch.nn.Module, token_ids: list[int], first: int) -> float:
    """Work out nats per token from probabilities, of the tokens from a place on."""
    with torch.no_grad():
        chances = model(input_ids=torch.tensor([token_ids])).logits[0].double().softmax(-1)
    nats = [-float(chances[place - 1, token_ids[place]].log()) for place in range(first, len(token_ids))]
    return sum(nats) / len(nats)


def test_both_ways_to_begin_are_scored_on_the_second_half_of_the_first_window() -> None:
    model = build_llama()
    expected = {"prepended": lose(model, [1, *TEXT], 5), "not added": lose(model, TEXT, 4)}
    for rule, length in (("always", 9), ("never", 8)):
        checkpoint = wrap_model(model, Numerals()).starting(rule)
        trial = try_starts(checkpoint, cut_windows(TEXT * 3, length, None, checkpoint.start.bos, 2))
        other = checkpoint.start.other
        assert other is not None
        assert trial.tokens == 4
        assert abs((trial.loss or 0) - expected[trial.start.use]) < 1e-5
        assert abs((trial.other_loss or 0) - expected[other.use]) < 1e-5


def test_without_a_bos_token_there_is_nothing_to_try() -> None:
    checkpoint = wrap_model(build_llama(), Numerals(None))
    trial = try_starts(checkpoint, cut_windows(TEXT, 8, None, None, 1))
    assert (trial, trial.seems_wrong) == (StartTrial(start=SequenceStart()), False)


def test_a_window_as_long_as_the_model_takes_leaves_room_for_bos() -> None:
    checkpoint = wrap_model(build_llama(), Numerals()).starting("never")
    checkpoint.model.config.max_position_embeddings = 8
    assert try_starts(checkpoint, cut_windows(TEXT, 8, None, None, 1)).tokens == 4


def test_the_other_way_has_to_be_better_by_more_than_the_margin() -> None:
    start = SequenceStart(token=1, use="prepended")
    losses = [(2.0, 2.0 - 0.9 * LOSS_MARGIN), (2.0, 2.0 - 1.1 * LOSS_MARGIN), (2.0, 3.0), (None, 2.0), (2.0, None)]
    wrong = [StartTrial(start=start, tokens=7, loss=one, other_loss=other).seems_wrong for one, other in losses]
    assert wrong == [False, True, False, True, False]


def test_a_model_that_is_read_as_it_runs_is_read_once_for_both_ways() -> None:
    windows = cut_windows(TEXT * 3, 20, None, 0, 1)
    ours, theirs, readings = find_both_ways(lambda checkpoint: try_starts(checkpoint.starting("always"), windows))
    assert ours == theirs
    assert ours.other_loss is not None
    assert readings == {1}
