"""A model in the engine that a policy names: opened when something is asked of it, let go of at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.corpus.windows import Windows
from sw_audit.engines.engine import Engine, EngineRequest
from sw_audit.engines.reading import measure_in_engines
from sw_audit.engines.registry import find_engine
from sw_audit.engines.transformers import Transformers
from sw_audit.errors import EngineError
from sw_audit.measure.answer_lengths import MOST_PROMPT
from sw_audit.measure.generation import GreedyContinuation, Prompt, find_ends
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.policy import DescentPolicy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.arm import (
    BASELINE,
    DEQUANTIZED,
    DESCENDANT,
    PARENT,
    PARENT_DEQUANTIZED,
    Arm,
    CacheRounding,
    Purpose,
)
from sw_audit.record.engine import EngineResult, RenderedChat, TokenizedText
from sw_audit.record.measurement import Measurement

_SHOWN = 8
"""So many tokens are told where two tokenizers part."""
_SAMPLE = 2000
"""Characters at the beginning of a text that both tokenizers cut."""
_TEXTS = (
    "Hello, world!",
    "  two spaces, a tab\tand a line\n\nthen 3.1415 and 1234567890",
    "naïve café — “quotes” … 東京 Москва \N{SLIGHTLY SMILING FACE}",
    "def f(x):\n    return x ** 2  # <|im_start|> </s>",
)
"""What tokenizers of two programs are known to cut in two ways: spaces, digits, accents, scripts, code, marks."""
_CHATS: tuple[tuple[dict[str, str], ...], ...] = (
    ({"role": "user", "content": "What is the capital of France?"},),
    (
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "Is water wet?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "And ice?"},
    ),
)


class EngineRun:
    """One model in its engine, the same files in transformers, and beside it its parent in its own engine.

    Attributes:
        model: The model, and what the policy says of its engine.
        checkpoint: The same files, open in transformers.
        positions: Tokens of the longest sequence that is scored or continued, what is added included.
        origin: What the model was made from, if it is held beside it.
        parent: The parent, open in transformers.
    """

    def __init__(
        self,
        model: ModelPolicy,
        checkpoint: Checkpoint,
        positions: int,
        origin: ModelPolicy | None = None,
        parent: Checkpoint | None = None,
    ) -> None:
        self.model, self.checkpoint, self.positions = model, checkpoint, positions
        self.origin, self.parent = origin, parent
        self._opened = ExitStack()

    @property
    def arms(self) -> tuple[Arm, ...]:
        """What is measured of the model by itself, the model in its engine first."""
        forms = tuple(Arm(purpose=CacheRounding(form=form)) for form in self.model.kv_cache)
        return (BASELINE, Arm(purpose=DEQUANTIZED), *forms)

    def close(self) -> None:
        """Let go of every engine that was opened."""
        self._opened.close()

    @cached_property
    def engine(self) -> Engine:
        """The model in its engine."""
        return self._open(self.model, self.checkpoint)

    @cached_property
    def parent_engine(self) -> Engine:
        """The parent in its own engine, if that may run its files; else in transformers."""
        origin, parent = self.origin, self.parent
        if origin is None or parent is None:
            raise LookupError(f"model {self.model.id!r} has no parent")
        runs = origin.in_engine and find_engine(origin).find_obstacle(origin) is None
        return self._open(origin, parent) if runs else Transformers(parent)

    def _find(self, purpose: Purpose) -> Engine:
        if isinstance(purpose, CacheRounding):
            return self._caches[purpose.form]
        if purpose == PARENT:
            return self.parent_engine
        if purpose == PARENT_DEQUANTIZED and self.parent is not None:
            return Transformers(self.parent)
        return Transformers(self.checkpoint) if purpose == DEQUANTIZED else self.engine

    @cached_property
    def _caches(self) -> dict[str, Engine]:
        return {form: self._open(self.model, self.checkpoint, form) for form in self.model.kv_cache}

    def _open(self, model: ModelPolicy, checkpoint: Checkpoint, kv_cache: str | None = None) -> Engine:
        request = EngineRequest(model, self.positions, checkpoint, kv_cache, torch.get_num_threads())
        return self._opened.enter_context(find_engine(model).open(request))

    def describe(self, text: str, notes: tuple[str, ...] = ()) -> EngineResult:
        """Say which engine it is, and hold its tokenizer and its chat template against those of the files."""
        engine, tokenizer = self.engine, self.checkpoint.tokenizer
        untold, tokenized, chats = [], [], []
        try:
            tokenized = [_tokenize(engine, tokenizer, one) for one in (text[:_SAMPLE], *_TEXTS)]
        except NotImplementedError as error:
            untold.append(str(error))
        if getattr(tokenizer, "chat_template", None):
            try:
                chats = [chat for messages in _CHATS if (chat := _render(engine, tokenizer, messages))]
            except NotImplementedError as error:
                untold.append(str(error))
        return EngineResult(
            identity=engine.identity,
            tokenized=tuple(tokenized),
            chats=tuple(chats),
            untold="; ".join(untold),
            notes=notes,
        )

    def measure(
        self,
        purposes: Iterable[Purpose],
        windows: Windows,
        protocol: str,
        stop_words: Tensor | None,
        progress: Progress = ignore_progress,
    ) -> dict[Purpose, Measurement]:
        """Measure a text in the engines that arms stand for.

        Agreement of the model is with its parent where that is among them, of the parent in transformers with the
        parent, and of all others with the model in its engine.
        """
        against: dict[Purpose, Purpose] = {DESCENDANT: PARENT, PARENT_DEQUANTIZED: PARENT}
        return measure_in_engines(
            {purpose: (self._find(purpose), against.get(purpose, BASELINE.purpose)) for purpose in purposes},
            windows,
            model=self.model.id,
            protocol=protocol,
            stop_words=stop_words,
            progress=progress,
        )

    def continue_prompts(
        self, prompts: Sequence[Prompt], progress: Progress = ignore_progress, *, parent: bool = False
    ) -> tuple[GreedyContinuation, ...]:
        """Let the model, or its parent, continue prompts, greedily, in its engine."""
        checkpoint = self.parent if parent else self.checkpoint
        if checkpoint is None:
            raise LookupError(f"model {self.model.id!r} has no parent")
        engine = self.parent_engine if parent else self.engine
        continued = engine.continue_prompts(prompts, find_ends(checkpoint), progress)
        return tuple(replace(one, text=checkpoint.tokenizer.decode(one.tokens)) for one in continued)


def count_positions(windows: Windows, policy: DescentPolicy, maximum: int | None) -> int:
    """Count the tokens of the longest sequence that is scored, or made by continuing a prompt."""
    longest = max(policy.prompt_tokens) + max(policy.new_tokens, policy.long_new_tokens) + 1
    if policy.answer_prompts:
        longest = max(longest, MOST_PROMPT + policy.answer_tokens)
    longest = max(int(windows.token_ids.shape[1]), longest)
    return longest if maximum is None else min(longest, maximum)


def _tokenize(engine: Engine, tokenizer: Any, text: str) -> TokenizedText:
    expected = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    found = list(engine.tokenize(text))
    pairs = enumerate(zip(expected, found, strict=False))
    parted = next((place for place, (ours, theirs) in pairs if ours != theirs), None)
    if parted is None and len(expected) != len(found):
        parted = min(len(expected), len(found))
    some = slice(0, 0) if parted is None else slice(parted, parted + _SHOWN)
    return TokenizedText(
        text=text,
        tokens=len(expected),
        engine_tokens=len(found),
        first_difference=parted,
        expected=tuple(expected[some]),
        found=tuple(found[some]),
    )


def _render(engine: Engine, tokenizer: Any, messages: Sequence[dict[str, str]]) -> RenderedChat | None:
    """Hold one conversation against the template of the files; `None` of one that the template refuses.

    A BOS token in front is left out: programs that add it when they cut a text take it out of the text.
    """
    bos = getattr(tokenizer, "bos_token", None) or ""
    try:
        expected = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except Exception:  # a template raises what it likes about a role that it does not know
        return None
    expected = expected.removeprefix(bos)
    try:
        return RenderedChat(expected=expected, found=engine.render(messages).removeprefix(bos))
    except EngineError as error:
        return RenderedChat(expected=expected, because=error.found)
