"""How long a model's answers to chat prompts are, decoded greedily until the token that ends them or a limit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

import sw_audit.corpus
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.suppress_output import quiet_libraries
from sw_audit.measure.generation import GreedyContinuation, Prompt, find_ends
from sw_audit.policy.policy import DescentPolicy
from sw_audit.record.descent import AnswerLength

_PROMPTS = Path(sw_audit.corpus.__file__).parent / "data" / "answer-prompts.txt"
_TAIL = 120
MOST_PROMPT = 256
"""A chat prompt of more tokens, its template counted, is not answered."""


def write_chat_prompts(checkpoint: Checkpoint, policy: DescentPolicy) -> tuple[tuple[Prompt, ...], str]:
    """Write the built-in chat prompts as the model's own chat template has them, up to where an answer begins.

    They are eight common words each: most tokenizers make them equally long, so that they are answered side by
    side.

    Returns:
        The prompts, and why there are none, a clause; that is empty where there are some or none are asked for.
    """
    tokenizer, maximum = checkpoint.tokenizer, checkpoint.maximum_positions
    if not policy.answer_prompts:
        return (), ""
    if not getattr(tokenizer, "chat_template", None):
        return (), "the parent has no chat template"
    if not find_ends(checkpoint):
        return (), "the parent has no token that ends a text"
    texts = _PROMPTS.read_text(encoding="utf-8").splitlines()[: policy.answer_prompts]
    prompts = []
    for text in texts:
        try:
            with quiet_libraries():
                token_ids = tokenizer.apply_chat_template(
                    [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
                )
        except (jinja2.TemplateError, ValueError) as error:
            return (), f"the parent's chat template does not take a user's message ({type(error).__name__})"
        if len(token_ids) > MOST_PROMPT:
            found = f"{len(token_ids)} tokens, more than {MOST_PROMPT}"
            return (), f"the parent's chat template makes a short message {found}"
        room = policy.answer_tokens if maximum is None else min(policy.answer_tokens, maximum - len(token_ids))
        if room < 1:
            return (), f"the parent takes {maximum} tokens at once, and a chat prompt has {len(token_ids)}"
        prompts.append(Prompt(text, tuple(token_ids), len(token_ids), room))
    return tuple(prompts), ""


def pair_lengths(
    prompts: Sequence[Prompt], parent: Sequence[GreedyContinuation], descendant: Sequence[GreedyContinuation]
) -> tuple[AnswerLength, ...]:
    """Put the lengths of both models' answers, one per prompt, side by side."""
    return tuple(
        AnswerLength(
            prompt=prompt.text,
            limit=prompt.new_tokens,
            parent=len(theirs.tokens) + _ends(prompt, theirs),
            descendant=len(ours.tokens) + _ends(prompt, ours),
            parent_ends=_ends(prompt, theirs),
            descendant_ends=_ends(prompt, ours),
            finite=ours.finite,
            tail="" if _ends(prompt, ours) else ours.text[-_TAIL:],
        )
        for prompt, theirs, ours in zip(prompts, parent, descendant, strict=True)
    )


def _ends(prompt: Prompt, answer: GreedyContinuation) -> bool:
    """Return whether an answer ended by itself: its tokens leave out the one that ends it."""
    return answer.finite and len(answer.tokens) < prompt.new_tokens
