"""What was found wrong with the files of a checkpoint, before anything is computed with them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sw_audit.fact import Fact
from sw_audit.record.address import Index

FlawKind = Literal[
    "unreadable",
    "missing-tensor",
    "unexpected-tensor",
    "mismatched-tensor",
    "loading-message",
    "non-finite",
    "constant",
    "zero-group",
    "degenerate-scale",
    "codes-without-config",
    "config-without-codes",
    "unknown-method",
    "shard-index",
    "tied-weights",
    "digest",
    "unquantized-experts",
]
"""What kind of thing is wrong."""


class Flaw(Fact):
    """One thing that is wrong with a checkpoint.

    Attributes:
        kind: What kind of thing.
        where: The tensor, file or key it was found in.
        found: What was found, in words, without a final stop.
        serious: Whether the weights are not intact; what is only unusual is told and fails nothing.
    """

    kind: FlawKind
    where: str
    found: str
    serious: bool = True


class WeightsReport(Fact):
    """What a static look at a checkpoint found; no flaw is an answer too.

    Attributes:
        files: How many weight files were looked at.
        tensors: How many tensors they hold.
        scanned: How many of these were read value by value.
        flaws: What is wrong, serious things first, at most `LISTED` of a kind.
        counts: Per kind, how many were found.
        serious: How many of all these are serious.
        manifest: Whether file digests were held against a manifest.
        remedy: What to do about the first serious flaw, as an imperative; `None` without one.
    """

    files: Index
    tensors: Index
    scanned: Index = 0
    flaws: tuple[Flaw, ...] = ()
    counts: dict[str, int] = Field(default_factory=dict)
    serious: Index = 0
    manifest: bool = False
    remedy: str | None = None

    @property
    def intact(self) -> bool:
        """Whether nothing serious was found."""
        return not any(flaw.serious for flaw in self.flaws)


LISTED = 5
"""So many flaws of a kind are listed by name; the others are counted."""
