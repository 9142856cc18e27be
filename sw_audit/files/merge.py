"""The merge of an adapter into its base, replayed from files."""

from __future__ import annotations

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.files import ReplayedMerge


def replay_merge(
    model: CheckpointFolder, parent: CheckpointFolder, progress: Progress = ignore_progress
) -> ReplayedMerge:
    """Merge the adapter that the policy names into the parent, and compare what comes of it with the model."""
    raise NotImplementedError
