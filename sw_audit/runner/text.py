"""Which text a model is measured on, where the policy leaves that to the model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.corpus.text import choose_corpus
from sw_audit.errors import AuditError
from sw_audit.policy.policy import ModelPolicy, Policy

_TOKENIZER = "tokenizer.json"


def settle_corpus(policy: Policy, model: ModelPolicy, tokenizer: Any = None) -> Policy:
    """Return the policy with its text settled for one of its models; see `choose_corpus`.

    The tokenizer's words are those of one in memory, or else read from the model's files, or where it brings none
    from its base's or parent's. Nothing is fetched.
    """
    if tokenizer is not None:
        return policy.model_copy(update={"corpus": choose_corpus(policy.corpus, tokenizer.get_vocab())})
    sources = [model, *([] if (parent := policy.find_parent(model)) is None else [parent])]
    files = (path for source in sources for path in _list_tokenizers(source))
    vocabulary = next(map(_read_vocabulary, files), None)
    return policy.model_copy(update={"corpus": choose_corpus(policy.corpus, vocabulary)})


def _list_tokenizers(model: ModelPolicy) -> Iterator[Path]:
    """Yield the tokenizer's file of a model and of its base; what is wrong with either, opening it will say."""
    with suppress(AuditError):
        folder = CheckpointFolder.find(model, fetch=False)
        if folder is None:
            return
        if folder.holds(_TOKENIZER):
            yield folder.path / _TOKENIZER
        if (base := folder.format.find_base(folder)) is not None:
            yield from _list_tokenizers(base)


def _read_vocabulary(file: Path) -> list[str] | None:
    """Return the tokens of a tokenizer's file; `None` where it is not made of words with ids."""
    try:
        vocabulary = json.loads(file.read_bytes())["model"]["vocab"]
    except (ValueError, KeyError, TypeError):
        return None  # opening the model will say what is wrong with it
    return list(vocabulary) if isinstance(vocabulary, dict) else None
