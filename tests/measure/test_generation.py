from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import DENSE, EXPERTS, LLAMA_LIKE, Family, save_checkpoint
from support.descent import judge_descent, make_descent_evidence
from support.evidence import make_evidence
from support.readings import count_readings
from support.verdicts import judge_one

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.corpus.text import read_corpus
from sw_audit.corpus.windows import Windows, cut_windows, window_corpus
from sw_audit.measure.generation import (
    GreedyContinuation,
    Prompt,
    continue_prompts,
    count_longest,
    draw_prompts,
    generate_continuations,
    pair_continuations,
)
from sw_audit.policy.policy import CorpusPolicy, DescentPolicy, ModelPolicy
from sw_audit.record.verdict import Status
from sw_audit.specimen.descendants import SUPER_WEIGHT
from sw_audit.specimen.shipped import specimen_path
from sw_audit.stopping import StoppedError

SHORT = DescentPolicy(prompt_tokens=(1, 5), new_tokens=16, long_new_tokens=18)


@pytest.fixture(scope="module")
def opened() -> Checkpoint:
    return open_checkpoint(ModelPolicy(source=str(specimen_path())))


@pytest.fixture(scope="module")
def windows(opened: Checkpoint) -> Windows:
    policy = CorpusPolicy(source="specimen", windows=16)
    return window_corpus(read_corpus(policy), opened.tokenizer, policy, opened.maximum_positions, opened.start.bos)


@pytest.fixture
def checkpoint(opened: Checkpoint) -> Iterator[Checkpoint]:
    """The specimen, whose settings and super weight may be changed by a test."""
    before, weight = opened.model.generation_config, opened.matrix(SUPER_WEIGHT[0]).module.weight
    kept = weight.detach().clone()
    opened.model.generation_config = copy.deepcopy(before)
    yield opened
    opened.model.generation_config = before
    with torch.no_grad():
        weight.copy_(kept)


def decode_slowly(checkpoint: Checkpoint, prompt: Prompt) -> tuple[int, ...]:
    """Take the likeliest token again and again, the whole text anew each time: no cache, no settings."""
    ids = list(prompt.token_ids)
    with torch.no_grad():
        for _ in range(prompt.new_tokens):
            ids.append(int(checkpoint.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return tuple(ids[len(prompt.token_ids) :])


def test_the_likeliest_token_is_taken_again_and_again(opened: Checkpoint, windows: Windows) -> None:
    prompts = draw_prompts(windows, opened.tokenizer, SHORT)
    for prompt, continuation in zip(prompts, generate_continuations(opened, prompts), strict=True):
        assert continuation.tokens == decode_slowly(opened, prompt)
        assert continuation.finite
        assert continuation.text == opened.tokenizer.decode(list(continuation.tokens))


def test_the_models_own_settings_of_decoding_are_put_aside_and_put_back(
    checkpoint: Checkpoint, windows: Windows
) -> None:
    prompts = draw_prompts(windows, checkpoint.tokenizer, SHORT)
    plain = generate_continuations(checkpoint, prompts)
    own = checkpoint.model.generation_config
    own.update(do_sample=True, temperature=9.0, repetition_penalty=3.0, no_repeat_ngram_size=2)
    assert generate_continuations(checkpoint, prompts) == plain
    assert checkpoint.model.generation_config is own
    assert own.repetition_penalty == 3.0


def test_a_text_ends_before_the_token_that_ends_it(checkpoint: Checkpoint, windows: Windows) -> None:
    prompts = draw_prompts(windows, checkpoint.tokenizer, SHORT)[:1]
    (whole,) = generate_continuations(checkpoint, prompts)
    end = whole.tokens[7]
    checkpoint.model.generation_config.eos_token_id = [end]
    (cut,) = generate_continuations(checkpoint, prompts)
    assert cut.tokens == whole.tokens[: whole.tokens.index(end)]


def test_of_prompts_of_one_length_that_run_together_each_ends_by_itself(
    checkpoint: Checkpoint, windows: Windows
) -> None:
    policy = DescentPolicy(prompt_tokens=(5, 5), new_tokens=12, long_new_tokens=20)
    prompts = draw_prompts(windows, checkpoint.tokenizer, policy)
    apart = [generate_continuations(checkpoint, [prompt])[0] for prompt in prompts]
    assert [len(one.tokens) for one in apart] == [12, 12, 20]
    calls: list[int] = []
    handle = checkpoint.layers[0].module.register_forward_hook(lambda *_: calls.append(1))
    assert list(generate_continuations(checkpoint, prompts)) == apart
    handle.remove()
    assert len(calls) == 20
    # They come to this token one after the other.
    end = apart[1].tokens[7]
    checkpoint.model.generation_config.eos_token_id = [end]
    kept = [tuple(takewhile(lambda token: token != end, one.tokens)) for one in apart]
    assert len({len(tokens) for tokens in kept}) > 1
    assert [one.tokens for one in generate_continuations(checkpoint, prompts)] == kept


def test_prompts_have_the_lengths_that_were_asked_for_and_come_from_different_places(
    opened: Checkpoint, windows: Windows
) -> None:
    prompts = draw_prompts(windows, opened.tokenizer, DescentPolicy())
    assert [prompt.tokens for prompt in prompts] == [1, 5, 20, 100, 100]
    assert [prompt.new_tokens for prompt in prompts] == [32, 32, 32, 32, 144]
    assert {prompt.token_ids[0] for prompt in prompts} == {windows.bos}
    assert [len(prompt.token_ids) for prompt in prompts] == [2, 6, 21, 101, 101]
    assert prompts[3].token_ids != prompts[4].token_ids
    assert prompts[1].text == opened.tokenizer.decode(list(prompts[1].token_ids[1:]))


def test_a_prompt_longer_than_a_window_runs_on_as_the_text_does(opened: Checkpoint) -> None:
    text = list(range(10, 60))
    for bos, stride in ((0, 7), (0, 3), (None, 7), (None, 4)):
        cut = cut_windows(text, 8, stride, bos, 99)
        policy = DescentPolicy(prompt_tokens=(30,), new_tokens=4, long_new_tokens=4)
        prompt = draw_prompts(cut, opened.tokenizer, policy)[0]
        assert prompt.token_ids[-30:] == tuple(text[:30])


def test_what_the_model_cannot_take_is_made_shorter(opened: Checkpoint, windows: Windows) -> None:
    policy = DescentPolicy(prompt_tokens=(1, 40), new_tokens=30, long_new_tokens=90)
    prompts = draw_prompts(windows, opened.tokenizer, policy, maximum=64)
    assert [(prompt.tokens, prompt.new_tokens) for prompt in prompts] == [(1, 30), (33, 30), (1, 62)]
    assert all(len(prompt.token_ids) + prompt.new_tokens <= 64 for prompt in prompts)
    assert count_longest(policy, 64) == 62
    assert count_longest(policy, None) == 90
    tiny = draw_prompts(windows, opened.tokenizer, policy, maximum=3)
    assert [(prompt.tokens, prompt.new_tokens) for prompt in tiny] == [(1, 1)] * 3


def test_progress_is_told_after_each_token_and_can_end_it(checkpoint: Checkpoint, windows: Windows) -> None:
    prompts = draw_prompts(windows, checkpoint.tokenizer, DescentPolicy(prompt_tokens=(1, 3), new_tokens=4))
    told: list[tuple[str, int, int]] = []
    plain = generate_continuations(checkpoint, prompts, lambda *step: told.append(step))
    # The two lengths give 4 and, the longest once more for longer, 144 tokens.
    assert told[0] == ("generating", 1, 148)
    assert told[-1] == ("generating", 148, 148)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)

    def end(_: str, done: int, __: int) -> None:
        if done == 6:
            raise StoppedError("the run was stopped by the test")

    settings = checkpoint.model.generation_config
    with pytest.raises(StoppedError):
        generate_continuations(checkpoint, prompts, end)
    assert checkpoint.model.generation_config is settings
    assert generate_continuations(checkpoint, prompts) == plain


def test_logits_that_are_not_finite_end_it(checkpoint: Checkpoint, windows: Windows) -> None:
    prompts = draw_prompts(windows, checkpoint.tokenizer, SHORT)
    with torch.no_grad():
        checkpoint.matrix(SUPER_WEIGHT[0]).module.weight[0, 0] = float("nan")
    continuations = generate_continuations(checkpoint, prompts)
    assert [(continuation.tokens, continuation.finite) for continuation in continuations] == [((), False)] * 3


def test_a_specimen_that_lost_its_super_weight_falls_apart_beside_its_parent(
    checkpoint: Checkpoint, windows: Windows
) -> None:
    prompts = draw_prompts(windows, checkpoint.tokenizer, SHORT)
    parent = generate_continuations(checkpoint, prompts)
    _, row, column = SUPER_WEIGHT
    with torch.no_grad():
        checkpoint.matrix(SUPER_WEIGHT[0]).module.weight[row, column] = 0.0
    broken = generate_continuations(checkpoint, prompts)
    for continuations, status in ((parent, Status.PASS), (broken, Status.FAIL)):
        paired = pair_continuations(prompts, parent, continuations)
        verdict = judge_descent("generation-sane", make_descent_evidence(continuations=paired))
        assert verdict.status is status
        assert verdict.observed == (0 if status is Status.PASS else 3)


def test_a_model_by_itself_goes_on_with_the_same_as_beside_a_parent(opened: Checkpoint, windows: Windows) -> None:
    alone = continue_prompts(opened, windows, SHORT)
    prompts = draw_prompts(windows, opened.tokenizer, SHORT, opened.maximum_positions)
    beside = generate_continuations(opened, prompts)
    assert [one.new_tokens for one in alone] == [one.tokens for one in beside]
    assert [(one.prompt, one.tokens, one.finite) for one in alone] == [
        (one.text, one.tokens, True) for one in prompts
    ]


def test_a_specimen_that_lost_its_super_weight_falls_apart_by_itself(
    checkpoint: Checkpoint, windows: Windows
) -> None:
    sound = continue_prompts(checkpoint, windows, DescentPolicy(long_new_tokens=32))
    parameter, row, column = SUPER_WEIGHT
    with torch.no_grad():
        checkpoint.matrix(parameter).module.weight[row, column] = 0.0
    broken = continue_prompts(checkpoint, windows, DescentPolicy(long_new_tokens=32))
    verdicts = [
        judge_one("generation-sane", make_evidence().model_copy(update={"continuations": made}))
        for made in (sound, broken)
    ]
    assert [verdict.status for verdict in verdicts] == [Status.PASS, Status.FAIL]
    assert [verdict.observed for verdict in verdicts] == [0, 5]


def generate_both_ways(folder: Path) -> tuple[list[GreedyContinuation], list[GreedyContinuation], set[int]]:
    """Continue prompts in memory and as the model is read; say, too, how often its layers are read."""
    chance = torch.Generator().manual_seed(0)
    prompts = [
        Prompt("", tuple(torch.randint(3, 17, (length,), generator=chance).tolist()), length, new_tokens)
        for length, new_tokens in ((1, 6), (5, 6), (5, 12), (20, 6))
    ]
    policy = ModelPolicy(source=str(folder))
    whole, streamed = open_checkpoint(policy), open_streaming(policy)
    for checkpoint in (whole, streamed):
        # None ends before the others.
        checkpoint.model.generation_config.eos_token_id = 9999
    with count_readings() as readings:
        ours = generate_continuations(streamed, prompts)
    of_layers = {count for name, count in readings.items() if ".0." in name}
    return list(ours), list(generate_continuations(whole, prompts)), of_layers


WINDOWED = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
FAMILIES = {family.model_type: family for family in (*DENSE, *EXPERTS)}


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("gpt2", {}),
        ("opt", {}),
        ("falcon", {}),
        ("qwen2", {}),
        ("gemma2", WINDOWED),
        ("gemma3_text", WINDOWED),
        ("mixtral", {}),
    ],
)
def test_a_model_that_is_read_as_it_runs_continues_as_in_memory_and_is_read_once_per_token(
    family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    ours, theirs, readings = generate_both_ways(save_checkpoint(tmp_path, FAMILIES[family], **settings))
    assert ours == theirs
    assert [len(one.tokens) for one in ours] == [6, 6, 12, 6]
    assert readings == {12}


def test_layers_that_keep_a_state_instead_of_keys_and_values_continue_likewise(tmp_path: Path) -> None:
    hybrid = Family("lfm2", settings={**LLAMA_LIKE, "layer_types": ["conv", "full_attention", "conv"]})
    ours, theirs, readings = generate_both_ways(save_checkpoint(tmp_path, hybrid))
    assert ours == theirs
    assert readings == {12}
