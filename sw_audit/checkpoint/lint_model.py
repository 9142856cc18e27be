"""Tensors against the model that they are for, by names and shapes, where they are not quantized."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sw_audit.checkpoint.formats import find_quantization
from sw_audit.checkpoint.stored import StoredTensors
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.weights import Flaw

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")


def hold_against_model(
    folder: Path, wanted: ModelPolicy, config: dict[str, Any], stored: StoredTensors
) -> Iterator[Flaw]:
    """Hold the tensors against those that the model asks for, and tied ones against each other.

    Args:
        folder: Where the files are.
        wanted: The model.
        config: What config.json says.
        stored: What the files hold.
    """
    yield from _hold_tied(config, stored)
    if find_quantization(config) is not None or not stored.safe or (folder / "adapter_config.json").exists():
        return
    # Imported late: it loads transformers, which not every flaw needs.
    from sw_audit.checkpoint.streaming import CannotStreamError, open_streaming

    try:
        open_streaming(wanted, digest=False)
    except BrokenWeightsError as error:
        yield Flaw.model_validate({"kind": error.kind, "where": error.where or error.asked, "found": error.found})
    except (CheckpointError, CannotStreamError):
        # Whatever else hinders it is told by opening, which comes next.
        return


def _hold_tied(config: dict[str, Any], stored: StoredTensors) -> Iterator[Flaw]:
    """Where the configuration ties head and embedding and both are stored, they have to be the same."""
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    if not (config.get("tie_word_embeddings") or (text or {}).get("tie_word_embeddings")):
        return
    head, embedding = (
        next((name for name in stored.shapes if name.endswith(ends)), None) for ends in (_HEADS, _EMBEDDINGS)
    )
    if head is None or embedding is None:
        return
    first, second = stored.read(head), stored.read(embedding)
    if first is None or second is None or first.dtype.is_floating_point is not second.dtype.is_floating_point:
        return
    if first.shape != second.shape or not torch.equal(first, second):
        found = f"config.json ties it to {embedding}, and the two are stored with different values"
        yield Flaw(kind="tied-weights", where=head, found=found)
