from __future__ import annotations

import copy

import pytest
import torch
from support.descent import judge_descent, make_descent_evidence

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.measure.answer_lengths import MOST_PROMPT, pair_lengths, write_chat_prompts
from sw_audit.measure.generation import generate_continuations
from sw_audit.policy.policy import DescentPolicy, ModelPolicy
from sw_audit.record.verdict import Status
from sw_audit.specimen.shipped import specimen_path

POLICY = DescentPolicy(answer_prompts=20, answer_tokens=24)
# The specimen knows the words of its own stories alone: each message asks for one of them, by its length.
TEMPLATE = (
    "{% set names = ['tom', 'jack', 'sam', 'ben', 'leo', 'max', 'finn', 'hugo', 'oscar', 'adam'] %}"
    "{{ bos_token }}once upon a time there was a old fox called "
    "{{ names[messages[0]['content'] | length % 10] }} who"
)


def prepare(checkpoint: Checkpoint) -> int:
    """Give the specimen a chat template, and let a full stop end its texts; return that token."""
    checkpoint.tokenizer.chat_template = TEMPLATE
    end = int(checkpoint.tokenizer.convert_tokens_to_ids("."))
    checkpoint.model.generation_config = copy.deepcopy(checkpoint.model.generation_config)
    checkpoint.model.generation_config.eos_token_id = end
    return end


@pytest.fixture
def opened() -> tuple[Checkpoint, int]:
    checkpoint = open_checkpoint(ModelPolicy(source=str(specimen_path())))
    return checkpoint, prepare(checkpoint)


def test_a_specimen_whose_end_tokens_row_is_gone_runs_on_and_fails_and_a_sound_copy_passes(
    opened: tuple[Checkpoint, int],
) -> None:
    checkpoint, end = opened
    prompts, unasked = write_chat_prompts(checkpoint, POLICY)
    assert (len(prompts), unasked) == (20, "")
    parent = generate_continuations(checkpoint, prompts)
    head = checkpoint.model.lm_head.weight
    with torch.no_grad():
        head.mul_(1 + 2**-9 * torch.randn(head.shape, generator=torch.Generator().manual_seed(0)))
    sound = pair_lengths(prompts, parent, generate_continuations(checkpoint, prompts))
    with torch.no_grad():
        head[end] = 0
    broken = pair_lengths(prompts, parent, generate_continuations(checkpoint, prompts))
    assert all(one.parent_ends for one in sound)
    assert not any(one.descendant_ends for one in broken)
    assert all(one.descendant == one.limit == 24 and one.tail for one in broken)
    verdicts = [
        judge_descent("answers-not-longer", make_descent_evidence(answers=made)) for made in (sound, broken)
    ]
    assert [verdict.status for verdict in verdicts] == [Status.PASS, Status.FAIL], [
        one.because for one in verdicts
    ]


def test_the_token_that_ends_an_answer_counts(opened: tuple[Checkpoint, int]) -> None:
    checkpoint, _ = opened
    prompts, _ = write_chat_prompts(checkpoint, POLICY.model_copy(update={"answer_prompts": 2}))
    made = generate_continuations(checkpoint, prompts)
    [first, _] = pair_lengths(prompts, made, made)
    assert first.parent == len(made[0].tokens) + 1
    # An answer that ends with the last token that is allowed does end; one token less, and it does not.
    for room, ends in ((first.parent, True), (first.parent - 1, False)):
        short, _ = write_chat_prompts(
            checkpoint, POLICY.model_copy(update={"answer_prompts": 1, "answer_tokens": room})
        )
        cut = generate_continuations(checkpoint, short)
        [one] = pair_lengths(short, cut, cut)
        assert (one.parent, one.parent_ends) == (room, ends)


def test_a_model_that_is_read_as_it_runs_answers_as_one_in_memory(opened: tuple[Checkpoint, int]) -> None:
    checkpoint, _ = opened
    streamed = open_streaming(ModelPolicy(source=str(specimen_path())))
    prepare(streamed)
    prompts, _ = write_chat_prompts(checkpoint, POLICY.model_copy(update={"answer_prompts": 4}))
    assert write_chat_prompts(streamed, POLICY.model_copy(update={"answer_prompts": 4}))[0] == prompts
    assert generate_continuations(streamed, prompts) == generate_continuations(checkpoint, prompts)


def test_why_no_prompt_can_be_answered_is_told(opened: tuple[Checkpoint, int]) -> None:
    checkpoint, _ = opened
    tokenizer = checkpoint.tokenizer
    assert write_chat_prompts(checkpoint, DescentPolicy(answer_prompts=0)) == ((), "")
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert "does not take a user's message" in write_chat_prompts(checkpoint, POLICY)[1]
    tokenizer.chat_template = "once " * (MOST_PROMPT + 1)
    assert f"more than {MOST_PROMPT}" in write_chat_prompts(checkpoint, POLICY)[1]
    tokenizer.chat_template = None
    assert write_chat_prompts(checkpoint, POLICY) == ((), "the parent has no chat template")
    tokenizer.chat_template, tokenizer.eos_token = TEMPLATE, None
    checkpoint.model.generation_config.eos_token_id = None
    assert write_chat_prompts(checkpoint, POLICY) == ((), "the parent has no token that ends a text")
