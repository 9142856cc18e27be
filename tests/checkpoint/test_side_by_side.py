"""Jobs that call a model side by side: a layer is there once for all of them, and nothing else differs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from support.checkpoints import save_checkpoint
from support.readings import count_readings

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.side_by_side import run_side_by_side
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.policy.policy import ModelPolicy

PROMPTS = ([1, 5, 6], [1, 7], [1, 5, 6, 7, 8, 9])


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> ModelPolicy:
    return ModelPolicy(source=str(save_checkpoint(tmp_path_factory.mktemp("saved"))))


def call(checkpoint: Checkpoint, token_ids: list[int], times: int = 1) -> Any:
    for _ in range(times):
        logits = checkpoint.model(input_ids=torch.tensor([token_ids]), use_cache=False).logits
    return logits


def list_calls(checkpoint: Checkpoint) -> list[Callable[[], Any]]:
    return [partial(call, checkpoint, token_ids, times) for times, token_ids in enumerate(PROMPTS, 1)]


def test_each_job_gives_what_it_gives_alone_and_layers_are_read_as_often_as_the_longest_needs(
    policy: ModelPolicy,
) -> None:
    streamed = open_streaming(policy)
    alone = [call(open_checkpoint(policy), token_ids) for token_ids in PROMPTS]
    threads = threading.active_count()
    with count_readings() as readings:
        together = run_side_by_side(streamed, list_calls(streamed))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(together, alone, strict=True))
    assert {readings[matrix.parameter] for layer in streamed.layers for matrix in layer.matrices} == {3}
    assert threading.active_count() == threads
    assert all(parameter.is_meta for layer in streamed.layers for parameter in layer.module.parameters())


def test_the_first_that_fails_ends_all_others_at_their_next_layer(policy: ModelPolicy) -> None:
    streamed, threads = open_streaming(policy), threading.active_count()
    came: list[int] = []

    def fail() -> None:
        call(streamed, [1, 2])
        raise ValueError("no more")

    def go_on() -> None:
        for time in range(9):
            call(streamed, [1, 2, 3])
            came.append(time)

    with pytest.raises(ValueError, match="no more"):
        run_side_by_side(streamed, [fail, go_on])
    assert came in ([], [0])
    assert threading.active_count() == threads
    assert torch.isfinite(call(streamed, [1, 2])).all()


def test_gradients_are_wanted_in_a_job_where_they_are_wanted_outside(policy: ModelPolicy) -> None:
    streamed = open_streaming(policy)
    for wanted in (True, False):
        with torch.set_grad_enabled(wanted):
            assert run_side_by_side(streamed, [torch.is_grad_enabled] * 2) == [wanted] * 2


def test_jobs_of_a_model_in_memory_run_one_after_the_other_in_this_thread(policy: ModelPolicy) -> None:
    here = threading.get_ident()
    assert run_side_by_side(open_checkpoint(policy), [threading.get_ident] * 2) == [here] * 2
