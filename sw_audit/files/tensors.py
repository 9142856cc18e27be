"""The tensors of a descendant beside its parent's: whether each is where it was, and what became of its rows."""

from __future__ import annotations

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.files import ComparedTensors


def compare_tensors(
    model: CheckpointFolder, parent: CheckpointFolder, progress: Progress = ignore_progress
) -> ComparedTensors:
    """Compare every tensor of a descendant with its parent's."""
    raise NotImplementedError
