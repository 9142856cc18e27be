"""The answer of an index to a model's name: an entry, or plainly none."""

from __future__ import annotations

from enum import StrEnum

from sw_audit.fact import Fact
from sw_audit.record.published import PublishedModel, Source


class Match(StrEnum):
    """By what a model was matched with an entry.

    `listed`: its hub id is the entry's. `digest`: its weight files are those of a local finding. `named`: the
    policy names the entry. `variant`: it is an instruct or chat variant of the entry's model. `derived`: its
    own files say that it was made from that model. `none`: there is no entry.
    """

    LISTED = "listed"
    DIGEST = "digest"
    NAMED = "named"
    VARIANT = "variant"
    DERIVED = "derived"
    NONE = "none"


class Lookup(Fact):
    """What an index knows of one model.

    Attributes:
        asked: The name that was looked up.
        match: By what it was matched.
        because: The same in words; without a match, why there is none.
        model: The entry.
        sources: The sources that the entry cites.
        nearest: Ids that resemble the name, where there is no match.
    """

    asked: str
    match: Match
    because: str
    model: PublishedModel | None = None
    sources: tuple[Source, ...] = ()
    nearest: tuple[str, ...] = ()

    @property
    def inherited(self) -> bool:
        """Whether the coordinates are those of a model that this one was made from."""
        return self.match in (Match.VARIANT, Match.DERIVED)

    def cite(self, key: str) -> Source | None:
        """Return a source by its key."""
        return next((source for source in self.sources if source.key == key), None)
