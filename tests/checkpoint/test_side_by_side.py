"""Jobs that call a model side by side: a layer is there once for all of them, and nothing else differs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import EXPERTS, save_checkpoint
from support.readings import count_readings

from sw_audit.checkpoint.matrices import take_states
from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.side_by_side import _Job, in_this_job, run_side_by_side
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.policy.policy import ModelPolicy

FAMILIES = {family.model_type: family for family in EXPERTS}
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


def list_jobs() -> list[threading.Thread]:
    """Jobs that have not ended; reading ahead has threads of its own."""
    return [thread for thread in threading.enumerate() if isinstance(thread, _Job)]


def test_each_job_gives_what_it_gives_alone_and_layers_are_read_as_often_as_the_longest_needs(
    policy: ModelPolicy,
) -> None:
    streamed = open_streaming(policy)
    alone = [call(open_checkpoint(policy), token_ids) for token_ids in PROMPTS]
    with count_readings() as readings:
        together = run_side_by_side(streamed, list_calls(streamed))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(together, alone, strict=True))
    assert {readings[matrix.parameter] for layer in streamed.layers for matrix in layer.matrices} == {3}
    assert not list_jobs()
    assert all(parameter.is_meta for layer in streamed.layers for parameter in layer.module.parameters())


def test_the_failure_that_is_first_in_order_is_raised_and_ends_those_after_it(policy: ModelPolicy) -> None:
    streamed = open_streaming(policy)
    came: list[str] = []

    def fail(name: str, times: int) -> None:
        for _ in range(times):
            call(streamed, [1, 2])
            came.append(name)
        raise ValueError(name)

    with pytest.raises(ValueError, match=r"^second$"):
        run_side_by_side(
            streamed,
            [
                partial(call, streamed, [1]),
                *(partial(fail, *one) for one in (("second", 3), ("third", 1), ("fourth", 9))),
            ],
        )
    assert came.count("second") == 3
    assert came.count("fourth") <= 1
    assert not list_jobs()
    assert all(parameter.is_meta for layer in streamed.layers for parameter in layer.module.parameters())


def test_a_hook_of_one_job_hears_no_other(policy: ModelPolicy) -> None:
    streamed = open_streaming(policy)
    module = streamed.layers[1].module

    def listen(token_ids: list[int]) -> list[int]:
        lengths: list[int] = []
        hook = in_this_job(lambda _, __, output: lengths.append(take_states(output).shape[1]))
        handle = module.register_forward_hook(hook)
        call(streamed, token_ids)
        handle.remove()
        return lengths

    assert run_side_by_side(streamed, [partial(listen, token_ids) for token_ids in PROMPTS]) == [[3], [2], [6]]


def test_gradients_are_wanted_in_a_job_where_they_are_wanted_outside(policy: ModelPolicy) -> None:
    streamed = open_streaming(policy)
    for wanted in (True, False):
        with torch.set_grad_enabled(wanted):
            assert run_side_by_side(streamed, [torch.is_grad_enabled] * 2) == [wanted] * 2


def test_jobs_of_a_model_in_memory_run_one_after_the_other_in_this_thread(policy: ModelPolicy) -> None:
    here = threading.get_ident()
    assert run_side_by_side(open_checkpoint(policy), [threading.get_ident] * 2) == [here] * 2


def test_each_job_runs_experts_in_the_way_that_it_has_set(tmp_path: Path) -> None:
    streamed = open_streaming(ModelPolicy(source=str(save_checkpoint(tmp_path, FAMILIES["mixtral"]))))
    config, plain = streamed.model.config, streamed.model.get_experts_implementation()

    def decode(way: str) -> set[str]:
        seen: set[str] = set()
        call(streamed, [1, 5])
        streamed.model.set_experts_implementation(way)
        hook = in_this_job(lambda *_: seen.add(config._experts_implementation))
        handles = [layer.module.register_forward_hook(hook) for layer in streamed.layers]
        call(streamed, [1, 5], times=2)
        for handle in handles:
            handle.remove()
        streamed.model.set_experts_implementation(plain)
        return seen

    ways = ["eager", "batched_mm", "eager"]
    assert run_side_by_side(streamed, [partial(decode, way) for way in ways]) == [{way} for way in ways]
    assert streamed.model.get_experts_implementation() == plain
