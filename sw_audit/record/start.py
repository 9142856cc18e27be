"""What stands before a text or prompt that a model is given: its BOS token, or nothing."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from sw_audit.fact import Fact
from sw_audit.record.address import Index

BosUse: TypeAlias = Literal["prepended", "not added", "absent"]
"""BOS stands before every text; the tokenizer defines one that is left out; it defines none."""


class SequenceStart(Fact):
    """What every text and prompt begins with, decided once when a model is opened.

    Attributes:
        token: Id of the BOS token; `None` if the tokenizer defines none.
        returned: Whether the tokenizer puts it before a text by itself.
        declared: What the model's files say of that (`add_bos_token` in tokenizer_config.json,
            `tokenizer.ggml.add_bos_token` in a GGUF file); `None` if they say nothing.
        automatic: Whether the rule `auto` puts it there.
        use: What is done.
    """

    token: Index | None = None
    returned: bool = False
    declared: bool | None = None
    automatic: bool = False
    use: BosUse = "absent"

    @property
    def bos(self) -> int | None:
        """The token that stands before every text, if one does."""
        return self.token if self.use == "prepended" else None

    @property
    def lead(self) -> list[int]:
        """What stands before every text: one token id, or none."""
        return [] if self.bos is None else [self.bos]

    @property
    def other(self) -> SequenceStart | None:
        """The other way to begin; `None` where there is no BOS token."""
        if self.token is None:
            return None
        return self.model_copy(update={"use": "not added" if self.use == "prepended" else "prepended"})


LOSS_MARGIN = 0.2
"""Nats per token by which the other way has to be better to be told: a fifth of the perplexity. BOS makes no
difference to SmolLM2-135M-Instruct over a text (perplexity 38.2 without, 38.3 with); there single windows of 64
scored tokens differ by 0.07 at most, of five. Models that training never showed their BOS lose 0.56 by it (one
published, 41.8 to 73.2) and more than 2 (the planted one in tests/locate/data/without-bos)."""


class StartTrial(Fact):
    """Both ways to begin, tried on the second half of the first window of the text.

    Attributes:
        start: What is done, and what the model's files say of it.
        tokens: So many tokens were scored, the same ones both ways; 0 where there is no BOS token to try.
        loss: Nats per token as it is done; `None` if that is not finite, or was not tried.
        other_loss: The same, begun the other way.
    """

    start: SequenceStart
    tokens: Index = 0
    loss: float | None = Field(default=None, ge=0)
    other_loss: float | None = Field(default=None, ge=0)

    @property
    def seems_wrong(self) -> bool:
        """Whether the other way is better by more than the margin, or the only one that is finite."""
        if self.other_loss is None:
            return False
        return self.loss is None or self.loss - self.other_loss > LOSS_MARGIN
