"""What an engine is: a program in which a model is open, that scores given tokens and continues prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.corpus.windows import Windows
from sw_audit.measure.generation import GreedyContinuation, Prompt
from sw_audit.measure.readers import LOGITS_AT_ONCE
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.engine import EngineIdentity

REGISTERED: list[EngineKind] = []


@dataclass(frozen=True)
class Piece:
    """Some places of one window whose next tokens are scored: from `first` to before `end`, counted in its row."""

    window: int
    first: int
    end: int


def cut_pieces(windows: Windows, vocabulary: int) -> list[Piece]:
    """Cut all scored places of windows, in order, into pieces whose log-probabilities fit into memory."""
    length, at_once = windows.token_ids.shape[1], max(1, LOGITS_AT_ONCE // vocabulary)
    return [
        Piece(window, first, min(first + at_once, length - 1))
        for window, scored in enumerate(windows.first_scored.tolist())
        for first in range(scored - 1, length - 1, at_once)
    ]


@dataclass(frozen=True, eq=False)
class Distributions:
    """What a model expects after each place of a piece.

    Attributes:
        log_probabilities: Natural logarithms, float32 [places, kept]; what is not finite is kept as it is.
        targets: Likewise of the token that follows, float32 [places]; NaN where the engine does not tell it.
        token_ids: Which tokens are kept, int64 [places, kept], the likeliest first; `None` where all are, in their
            order.
    """

    log_probabilities: Tensor
    targets: Tensor
    token_ids: Tensor | None = None

    @classmethod
    def of_logits(cls, logits: Tensor, targets: Tensor) -> Distributions:
        """Make them of logits, [places, vocabulary], and the ids of the tokens that follow, int64 [places]."""
        log_p = logits.float().log_softmax(-1)
        return cls(log_p, log_p.gather(1, targets[:, None])[:, 0])

    @property
    def top(self) -> Tensor:
        """The likeliest token at each place, int64 [places]; -1 where they are not finite."""
        if self.token_ids is None:
            peak, top = self.log_probabilities.max(-1)
        else:
            peak, top = self.log_probabilities[:, 0], self.token_ids[:, 0]
        return torch.where(peak.isfinite(), top, -1)


@dataclass(frozen=True)
class EngineRequest:
    """How a model is to be opened.

    Attributes:
        model: Which model, and what the policy says of its engine.
        positions: Tokens of the longest sequence that it will be given, what it is to add included.
        checkpoint: The same files, open in transformers: the tokenizer, and where the files are.
        kv_cache: Form of the key-value cache; `None` is the engine's own.
        threads: Threads to compute with.
    """

    model: ModelPolicy
    positions: int
    checkpoint: Checkpoint
    kv_cache: str | None = None
    threads: int = 1


class Engine(ABC):
    """A model that is open in a program; use it in a `with`, which lets go of all that it holds.

    Each method raises `EngineError` where the program does not answer, ends, or answers with what was not asked.
    """

    @property
    @abstractmethod
    def identity(self) -> EngineIdentity:
        """Which program, and how it runs the model."""

    @abstractmethod
    def score(self, windows: Windows, pieces: Sequence[Piece]) -> Iterator[Distributions]:
        """Yield what the model expects at each piece in turn; every window is a sequence of its own."""

    @abstractmethod
    def continue_prompts(
        self, prompts: Sequence[Prompt], ends: frozenset[int], progress: Progress = ignore_progress
    ) -> tuple[GreedyContinuation, ...]:
        """Continue each prompt greedily, up to its own number of new tokens, or to before an end token.

        The text of each may be left empty.
        """

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Cut a text with the program's own tokenizer, without special tokens before and after.

        Raises:
            NotImplementedError: If it does not tell; the message says why, a clause.
        """
        raise NotImplementedError(f"{self.identity.engine} does not tell how it cuts a text")

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """Write a conversation (`role`, `content`) as the program gives it to the model, the answer still to come.

        Raises:
            NotImplementedError: If it does not tell; the message says why, a clause.
        """
        raise NotImplementedError(f"{self.identity.engine} does not tell how it writes a conversation")

    def close(self) -> None:  # noqa: B027 - most have something to let go of, and need not
        """Let go of all that it holds; doing so twice is no error."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class EngineKind:
    """One engine, as its file registers it.

    Attributes:
        name: What the policy calls it.
        what: What it is, one clause.
        extra: The extra of sw-audit that installs what it needs; empty if nothing more is needed.
        kv_caches: Forms of the key-value cache that it can be asked for.
        find_obstacle: Says why it cannot run the files that a policy names, as far as names and headers tell, a
            clause; `None` if it may. It imports nothing heavy.
        require: Raises `InputError` where what it needs is not installed or not set.
        open: Opens a model.
        takes_url: Whether it is a server that `url` names.
    """

    name: str
    what: str
    extra: str
    kv_caches: tuple[str, ...]
    find_obstacle: Callable[[ModelPolicy], str | None]
    require: Callable[[ModelPolicy], None]
    open: Callable[[EngineRequest], Engine]
    takes_url: bool = False


def register(kind: EngineKind) -> EngineKind:
    """Make an engine known by its name."""
    REGISTERED.append(kind)
    return kind
