"""Decides whether a BOS token stands before every text: as the model's own files do, or as a policy says."""

from __future__ import annotations

from typing import Any

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.errors import CheckpointError
from sw_audit.policy.model_policy import BosRule
from sw_audit.record.start import SequenceStart

SHORT_TEXT = "5 7"
"""A text that every tokenizer reads, those of numerals too."""


def find_start(tokenizer: Any, folder: CheckpointFolder | None = None) -> SequenceStart:
    """Find out how a model's own files begin a text.

    What the tokenizer returns counts, whatever its flag says; but the flag of a GGUF file counts, which whoever
    runs the file follows.
    """
    token = getattr(tokenizer, "bos_token_id", None)
    if token is None:
        return SequenceStart()
    plain = list(tokenizer.encode(SHORT_TEXT, add_special_tokens=False))
    returned = list(tokenizer.encode(SHORT_TEXT, add_special_tokens=True))[: len(plain) + 1] == [token, *plain]
    declared = None if folder is None else folder.format.declares_bos(folder)
    decides = folder is not None and declared is not None and folder.format.declared_bos_counts
    automatic = bool(declared) if decides else returned
    use = "prepended" if automatic else "not added"
    return SequenceStart(token=token, returned=returned, declared=declared, automatic=automatic, use=use)


def apply_rule(start: SequenceStart, rule: BosRule, asked: str) -> SequenceStart:
    """Return how texts begin under a rule; `never` asks nothing of a tokenizer that defines no BOS token.

    Raises:
        CheckpointError: If BOS is always to be there and the tokenizer defines none; `asked` names the model.
    """
    if start.token is None:
        if rule == "always":
            found = "BOS is to stand before every text, and its tokenizer defines no BOS token"
            raise CheckpointError(asked, found, "set bos to 'auto' or 'never', or correct the tokenizer")
        return start
    prepended = start.automatic if rule == "auto" else rule == "always"
    return start.model_copy(update={"use": "prepended" if prepended else "not added"})
