"""How figures were measured: two figures may be compared only under one protocol."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sw_audit.fact import Fact, digest_fact
from sw_audit.record.identity import CorpusIdentity


class Protocol(Fact):
    """Everything besides the weights that decides a figure.

    Attributes:
        corpus: The text.
        tokenizer: sha256 of the tokenizer's serialized form.
        window: Tokens the model sees at once, BOS included.
        stride: Tokens that are new, and scored, in each window.
        windows: Number of windows.
        bos: Whether each window begins with the tokenizer's BOS token.
        dtype: The dtype of the computation.
        seed: Seed of everything that is drawn.
    """

    corpus: CorpusIdentity
    tokenizer: str
    window: int = Field(ge=2)
    stride: int = Field(ge=1)
    windows: int = Field(ge=1)
    bos: Literal["prepended", "absent"]
    dtype: str
    seed: int

    @property
    def signature(self) -> str:
        """First twelve hex digits of the protocol's digest, printed beside every figure."""
        return digest_fact(self)[:12]

    @property
    def description(self) -> str:
        """What the signature stands for, in words."""
        bos = "BOS" if self.bos == "prepended" else "no BOS"
        return (
            f"{self.corpus.name}, {self.windows} windows of {self.window} tokens, stride {self.stride}, {bos}, "
            f"{self.dtype}, seed {self.seed}"
        )

    def __str__(self) -> str:
        return f"{self.signature} ({self.description})"


def compare_protocols(then: Protocol, now: Protocol) -> str:
    """Say in what two protocols differ, such as `window 64 then, 128 now`."""
    before, after = then.model_dump(), now.model_dump()
    different = {key for key in before if before[key] != after[key]}
    words = [f"{key} {before[key]} then, {after[key]} now" for key in before if key in different - {"corpus"}]
    words = ["another tokenizer" if key.startswith("tokenizer ") else key for key in words]
    if "corpus" in different:
        name = f"{then.corpus.name} then, {now.corpus.name} now"
        words.insert(0, f"another text ({name})" if then.corpus.sha256 != now.corpus.sha256 else f"text {name}")
    return "; ".join(words) or "its figures carry another signature than its protocol"
