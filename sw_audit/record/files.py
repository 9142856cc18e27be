"""What a descendant's files show beside its parent's, before anything is opened."""

from __future__ import annotations

from typing import Literal

from sw_audit.fact import Fact
from sw_audit.record.address import Index

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
        allowed: Whether the policy lets it differ.
        note: What follows from it, a clause; empty where the values say it all.
    """

    key: str
    parent: str | None
    value: str | None
    effect: SettingEffect
    allowed: bool = False
    note: str = ""

    @property
    def serious(self) -> bool:
        """Whether it decides something, and may not differ."""
        return self.effect != "none" and not self.allowed


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


class ComparedTensors(Fact):
    """The tensors of a descendant beside its parent's.

    Attributes:
        compared: How many tensors both have in one shape.
    """

    compared: Index


class ReplayedMerge(Fact):
    """The parent with an adapter merged into it, beside the model that is said to be that.

    Attributes:
        adapter: Where the adapter is, as the policy names it.
        compared: How many tensors were compared.
    """

    adapter: str
    compared: Index


class ComparedFiles(Fact):
    """Everything that the files of a descendant show beside its parent's; `None` where nobody asked.

    Attributes:
        settings: Configuration, generation settings, tokenizer and chat template.
        tensors: Whether each tensor is where it was.
        merge: Whether the merge that the policy names gives this model.
    """

    settings: ComparedSettings | None = None
    tensors: ComparedTensors | None = None
    merge: ReplayedMerge | None = None

    @property
    def serious(self) -> bool:
        """Whether anything was found that alone would explain why the model cannot be opened or measured."""
        return self.settings is not None and any(changed.serious for changed in self.settings.changed)
