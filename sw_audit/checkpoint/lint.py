"""Looking at a checkpoint before anything is computed: what loads without a complaint can still be noise."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.lint_headers import look_at_headers, read_flaw
from sw_audit.checkpoint.lint_values import scan_values
from sw_audit.checkpoint.stored import StoredTensors
from sw_audit.checkpoint.streaming import CannotStreamError, open_streaming
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.checkpoint import Flaw, WeightsReport

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")


def lint_checkpoint(policy: ModelPolicy) -> WeightsReport:
    """Look at the files of a checkpoint, value by value, without making a model that could run.

    1. Headers: whether files are whole and agree with the index and the manifest, and whether suffixes and dtypes
       agree with `quantization_config`.
    2. The model, without data: where weights are not quantized, whether they are exactly the tensors that it asks
       for.
    3. Values, each read once: anything not finite, matrices and groups without information, scales that cannot be.

    Args:
        policy: The model.

    Returns:
        What was found; a healthy checkpoint has no serious flaw.

    Raises:
        CheckpointError: If there is no checkpoint to look at: no folder, no configuration, no weights.
    """
    look = look_at_headers(policy)
    folder, stored = look.folder, look.stored
    if stored is None:
        return look.report()
    if folder.declared and not any(flaw.serious for flaw in look.flaws):
        look.flaws += _compare_tied(folder, stored)
        look.flaws += _compare_with_model(folder, stored)
    look.flaws += scan_values(folder, stored)
    return look.report()


def _compare_tied(folder: CheckpointFolder, stored: StoredTensors) -> Iterator[Flaw]:
    """Where the configuration ties head and embedding and both are stored, they have to be the same."""
    text = folder.declared.get("text_config")
    parts = [folder.declared, text if isinstance(text, dict) else {}]
    if not any(part.get("tie_word_embeddings") for part in parts):
        return
    head, embedding = (
        next((name for name in stored.headers if name.endswith(ends)), None) for ends in (_HEADS, _EMBEDDINGS)
    )
    if head is None or embedding is None:
        return
    first, second = stored.read(head), stored.read(embedding)
    if first is None or second is None or first.dtype.is_floating_point is not second.dtype.is_floating_point:
        return
    if first.shape != second.shape or not torch.equal(first, second):
        found = f"config.json ties it to {embedding}, and the two are stored with different values"
        yield Flaw(kind="tied-weights", where=head, found=found)


def _compare_with_model(folder: CheckpointFolder, stored: StoredTensors) -> Iterator[Flaw]:
    """Hold names and shapes of tensors that are not quantized against those that the model asks for."""
    if not folder.is_plain or not stored.all_safetensors:
        return
    try:
        open_streaming(folder.policy, digest=False)
    except BrokenWeightsError as error:
        yield read_flaw(error)
    except (CheckpointError, CannotStreamError):
        # Whatever else hinders it is told by opening, which comes next.
        return
