"""The model in transformers, in this process: what others are held against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from transformers import __version__

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.corpus.windows import Windows
from sw_audit.engines.engine import Distributions, Engine, EngineKind, Piece, register
from sw_audit.measure.engine import give_logits
from sw_audit.measure.generation import GreedyContinuation, Prompt, generate_continuations
from sw_audit.measure.readers import batch_windows
from sw_audit.policy.model_policy import TRANSFORMERS, ModelPolicy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.engine import EngineIdentity


class Transformers(Engine):
    """An open checkpoint as an engine; it stays open."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    @property
    def identity(self) -> EngineIdentity:
        """The library's version, and the model's dtype and device."""
        own = self._checkpoint.identity
        return EngineIdentity(
            engine=TRANSFORMERS,
            version=__version__,
            vocabulary=self._checkpoint.vocabulary,
            settings={"dtype": own.dtype, "device": own.device},
        )

    def score(self, windows: Windows, pieces: Sequence[Piece]) -> Iterator[Distributions]:
        """Run the windows in batches, each layer on all of them before the next."""
        by_window = {window: list(some) for window, some in groupby(pieces, key=lambda piece: piece.window)}
        batches = batch_windows(windows, self._checkpoint.vocabulary)
        given = give_logits(self._checkpoint, [batch.token_ids for batch in batches])
        for batch, logits in zip(batches, given, strict=True):
            for row, token_ids in enumerate(batch.token_ids):
                for piece in by_window.get(batch.first + row, ()):
                    targets = token_ids[piece.first + 1 : piece.end + 1]
                    yield Distributions.of_logits(logits[row, piece.first : piece.end].cpu(), targets)

    def continue_prompts(
        self,
        prompts: Sequence[Prompt],
        ends: frozenset[int],  # noqa: ARG002 - the library asks the files itself
        progress: Progress = ignore_progress,
    ) -> tuple[GreedyContinuation, ...]:
        """Continue with the library's own loop; the end tokens are those of the model's files."""
        return generate_continuations(self._checkpoint, prompts, progress)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Cut a text with the tokenizer of the files."""
        return tuple(self._checkpoint.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _find_obstacle(_: ModelPolicy) -> str | None:
    return None


def _require(_: ModelPolicy) -> None:
    return None


TRANSFORMERS_ENGINE = register(
    EngineKind(
        name=TRANSFORMERS,
        what="the library, in this process; weights can be changed in it",
        extra="",
        kv_caches=(),
        find_obstacle=_find_obstacle,
        require=_require,
        open=lambda request: Transformers(request.checkpoint),
    )
)
