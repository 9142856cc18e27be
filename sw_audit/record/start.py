"""What stands before a text or prompt that a model is given: its BOS token, or nothing."""

from __future__ import annotations

from typing import Literal, TypeAlias

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
