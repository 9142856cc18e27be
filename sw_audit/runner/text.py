"""Which text a model is measured on, where the policy leaves that to the model."""

from __future__ import annotations

import json
from pathlib import Path

from sw_audit.corpus.text import choose_corpus
from sw_audit.policy.policy import ModelPolicy, Policy

_TOKENIZER = "tokenizer.json"


def settle_corpus(policy: Policy, model: ModelPolicy) -> Policy:
    """Return the policy with its text settled for one of its models; see `choose_corpus`.

    The tokenizer's words are read from the model's folder, or from its parent's where it brings none.
    """
    parent = policy.find_parent(model)
    places = [_find_tokenizer(one) for one in (model, parent) if one is not None]
    file = next((place for place in places if place.is_file()), None)
    return policy.model_copy(
        update={"corpus": choose_corpus(policy.corpus, None if file is None else _read_vocabulary(file))}
    )


def _find_tokenizer(model: ModelPolicy) -> Path:
    path = Path(model.source).expanduser()
    return (path.parent if path.suffix == ".safetensors" else path) / _TOKENIZER


def _read_vocabulary(file: Path) -> list[str] | None:
    """Return the tokens of a tokenizer's file; `None` where it is not made of words with ids."""
    try:
        vocabulary = json.loads(file.read_bytes())["model"]["vocab"]
    except (ValueError, KeyError, TypeError):
        return None  # opening the model will say what is wrong with it
    return list(vocabulary) if isinstance(vocabulary, dict) else None
