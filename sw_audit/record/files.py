"""What a descendant's files show beside its parent's, before anything is opened."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import Field

from sw_audit.fact import Fact
from sw_audit.record.address import Index
from sw_audit.record.experts import ComparedExperts

SettingEffect = Literal["computation", "stopping", "sampling", "input", "none"]
"""What a setting decides: the computation, when generation stops, how tokens are drawn, or what goes in."""


class ChangedSetting(Fact):
    """One setting that is not the parent's.

    Attributes:
        key: As `[descent] may_differ` names it: the file without `.json`, then the keys, such as
            `generation_config.temperature`.
        parent: The parent's value as JSON; `None` where it has none.
        value: The value here, likewise.
        effect: What it decides.
        note: What follows from it, a clause; empty where the values say it all.
    """

    key: str
    parent: str | None
    value: str | None
    effect: SettingEffect
    note: str = ""

    @property
    def serious(self) -> bool:
        """Whether it decides something."""
        return self.effect != "none"

    def is_named(self, patterns: Iterable[str]) -> bool:
        """Tell whether one of some glob patterns names it, such as those of `[descent] may_differ`."""
        return any(fnmatchcase(self.key, pattern) for pattern in patterns)


class ComparedSettings(Fact):
    """The settings of a descendant beside its parent's.

    Attributes:
        compared: How many keys either has.
        changed: Those that differ, serious ones first.
        texts: How many texts both tokenizers were given.
        conversations: How many conversations both chat templates were given.
        notes: What else a reader should know, such as what the audit adds to a text that the tokenizer does not.
    """

    compared: Index
    changed: tuple[ChangedSetting, ...] = ()
    texts: Index = 0
    conversations: Index = 0
    notes: tuple[str, ...] = ()

    def list_serious(self, may_differ: Iterable[str]) -> tuple[ChangedSetting, ...]:
        """List what decides something and is not named among what may differ."""
        patterns = tuple(may_differ)
        return tuple(changed for changed in self.changed if changed.serious and not changed.is_named(patterns))


TensorChange = Literal[
    "swapped",
    "moved",
    "copied",
    "transposed",
    "turned",
    "negated",
    "unrelated",
    "apart",
    "scaled",
    "rescaled",
    "constant",
    "missing",
    "zeroed",
    "flipped",
    "repeated",
    "exchanged",
    "doubled",
]
"""What became of a tensor.

Of all of it: it is another's in exchange, another's while that one went elsewhere too, or another's that still is
in its place; it is its own transposed, turned by 180 degrees, times -1 or times another number (`scaled`), or its
blocks are times numbers of their own (`rescaled`); it resembles nothing of the parent's; it is far from its own
where other matrices are near (`apart`); it is one number in every place; it is gone. Of rows or columns: they are
zero, times -1, one number in every place (`repeated`), others of its own (`exchanged`), or bit for bit another of
this model's (`doubled`).
"""


class ChangedTensor(Fact):
    """One tensor of a descendant that is not where it was, or lost rows or columns.

    Attributes:
        name: As the descendant's files have it; of a missing one as the parent's have it.
        change: What became of it.
        axis: Whether its rows or its columns did; `None` for all of it.
        indices: The first of these rows or columns.
        count: How many there are; of a missing layer its tensors.
        of: Out of how many.
        nearest: The parent's tensor that it is nearest to; of exchanged rows the one that the first of them is.
        own: Its cosine with its own in the parent, where that was taken.
        other: Its cosine with what it is nearest to.
        serious: Whether sound compression or training does not explain it.
    """

    name: str
    change: TensorChange
    axis: Literal["rows", "columns"] | None = None
    indices: tuple[Index, ...] = ()
    count: Index = 1
    of: Index = 1
    nearest: str | None = None
    own: float | None = None
    other: float | None = None
    serious: bool = True


class Uncompared(Fact):
    """Tensors that were not compared.

    Attributes:
        because: Why, a clause.
        count: How many.
        first: The first one's name.
    """

    because: str
    count: Index
    first: str


class ComparedTensors(Fact):
    """The tensors of a descendant beside its parent's.

    Attributes:
        compared: How many were held against their own in the parent.
        equal: How many of these are equal, number by number.
        rotated: How many matrices are the parent's up to an orthogonal factor.
        changed: What is not where it was, serious things first; at most `LISTED` of a kind of change.
        counts: Per kind of change, how many tensors were found, serious ones only.
        uncompared: What was not compared, and why.
        base: The base of an adapter, compared in its place where its files are not the parent's.
    """

    compared: Index
    equal: Index = 0
    rotated: Index = 0
    changed: tuple[ChangedTensor, ...] = ()
    counts: dict[TensorChange, int] = Field(default_factory=dict)
    uncompared: tuple[Uncompared, ...] = ()
    base: str | None = None

    @property
    def serious(self) -> bool:
        """Whether anything was found that sound compression or training does not explain."""
        return bool(self.counts)


class ReplayedTensor(Fact):
    """One tensor of a merged model that is not bit for bit what the merge gives.

    Attributes:
        name: As the merged model's files have it.
        touched: Whether the adapter changes it.
        ulps: How far it is from what the merge gives where it is farthest, in units in the last place of its dtype
            at the largest of what is added up there; `None` where the shapes differ, or it is not finite.
        applied: How much of the adapter's change it has, fitted over all numbers: 1 where it was merged, 0 where
            it was not, 2 where it was merged twice; `None` where the adapter does not touch it.
        uncertain: Standard error of that.
    """

    name: str
    touched: bool
    ulps: float | None
    applied: float | None = None
    uncertain: float | None = None


class ReplayedMerge(Fact):
    """The parent with an adapter merged into it, beside the model that is said to be that.

    Attributes:
        adapter: Where the adapter is, as the policy names it.
        compared: How many tensors were compared.
        touched: How many of these the adapter changes.
        equal: How many are bit for bit what the merge gives.
        tensors: Those that are not: the farthest, those whose change was applied least as it should be, and those
            that the adapter does not touch; at most `LISTED` of each.
        strays: How many differ from the parent's though the adapter does not touch them.
        unplaced: Names of the adapter's that stand for nothing in the model.
        obstacle: Why the merge cannot be done again, a clause; `None` if it was.
        uncompared: What was not compared, and why.
        base: What the adapter names as its base, where that is here and its files are not the parent's.
    """

    adapter: str
    compared: Index
    touched: Index = 0
    equal: Index = 0
    tensors: tuple[ReplayedTensor, ...] = ()
    strays: Index = 0
    unplaced: tuple[str, ...] = ()
    obstacle: str | None = None
    uncompared: tuple[Uncompared, ...] = ()
    base: str | None = None


class ComparedFiles(Fact):
    """Everything that the files of a descendant show beside its parent's; `None` where nobody asked.

    Attributes:
        settings: Configuration, generation settings, tokenizer and chat template.
        tensors: Whether each tensor is where it was.
        experts: Whether the experts of a mixture are stored alike.
        merge: Whether the merge that the policy names gives this model.
    """

    settings: ComparedSettings | None = None
    tensors: ComparedTensors | None = None
    experts: ComparedExperts | None = None
    merge: ReplayedMerge | None = None

    def is_serious(self, may_differ: Iterable[str]) -> bool:
        """Tell whether anything was found that alone would explain why the model cannot be opened or measured.

        Settings that a policy lets differ are no reason.
        """
        settings = self.settings is not None and bool(self.settings.list_serious(may_differ))
        return settings or (self.tensors is not None and self.tensors.serious)
