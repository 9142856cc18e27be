"""Channels of the residual stream are followed on many prompts in few passes, as on each by itself."""

from __future__ import annotations

import pytest
import torch
from support.planted import wrap_model
from support.readings import find_both_ways

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.locate.probe import probe_prompt
from sw_audit.locate.trace import trace_prompts
from sw_audit.testing.families import build_random_model

LENGTHS = (9, 1, 2, 5, 30, 6, 8, 31, 1)
CHANNELS = (3, 17)


def draw(lengths: tuple[int, ...] = LENGTHS) -> list[tuple[str, list[int]]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (f"prompt {number}", torch.randint(3, 101, (length,), generator=generator).tolist())
        for number, length in enumerate(lengths)
    ]


def count_passes(checkpoint: Checkpoint, prompts: list[tuple[str, list[int]]]) -> int:
    passes: list[object] = []
    handle = checkpoint.model.register_forward_pre_hook(lambda *given: passes.append(given))
    try:
        trace_prompts(checkpoint, CHANNELS, prompts)
    finally:
        handle.remove()
    return len(passes)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "falcon", "mixtral", "gemma2"])
def test_each_prompt_shows_what_it_shows_by_itself(family: str) -> None:
    checkpoint = wrap_model(build_random_model(family, layers=3))
    prompts = draw()
    traces = trace_prompts(checkpoint, CHANNELS, prompts)
    assert [(trace.prompt, trace.tokens, trace.channel) for trace in traces] == [
        (text, len(token_ids), channel) for text, token_ids in prompts for channel in CHANNELS
    ]
    for (_, token_ids), of_prompt in zip(prompts, zip(traces[::2], traces[1::2], strict=True), strict=True):
        residual = probe_prompt(checkpoint, token_ids).residual  # [layers, tokens, hidden]
        for trace in of_prompt:
            for layer, states in enumerate(residual):
                peak = int(states[:, trace.channel].abs().argmax())
                assert trace.peaks[layer] == peak
                assert trace.values[layer] == pytest.approx(float(states[peak, trace.channel]), rel=1e-4, abs=1e-6)
                above = int((states[peak].abs() > states[peak, trace.channel].abs()).sum())
                assert trace.ranks[layer] == pytest.approx(above, abs=1)


def test_prompts_of_about_one_length_share_a_pass_and_a_pass_has_few_tokens() -> None:
    checkpoint = wrap_model(build_random_model("llama", layers=2))
    # 1, 1, 2 / 5, 6, 8, 9 / 30, 31
    assert count_passes(checkpoint, draw()) == 3
    # 16 prompts of 32 tokens are 512.
    assert count_passes(checkpoint, draw((32,) * 33)) == 3


def test_no_hook_is_left_where_a_prompt_is_not_finite() -> None:
    checkpoint = wrap_model(build_random_model("llama", layers=2))
    embedding = checkpoint.model.get_input_embeddings().weight
    embedding[50] = float("inf")
    fine, wrong = ("fine", [7, 8, 9]), ("wrong", [7, 50])
    with pytest.raises(CheckpointError, match="decoder layer 0 is not finite"):
        trace_prompts(checkpoint, CHANNELS, [fine, wrong])
    assert all(not module._forward_hooks for module in checkpoint.model.modules())
    assert len(trace_prompts(checkpoint, CHANNELS, [fine])) == 2


def test_a_model_that_is_read_as_it_runs_is_read_once_for_prompts_of_all_lengths() -> None:
    prompts = [(text, [token % 60 for token in token_ids]) for text, token_ids in draw()]
    ours, theirs, readings = find_both_ways(lambda checkpoint: trace_prompts(checkpoint, CHANNELS, prompts))
    assert ours == theirs
    assert readings == {1}
