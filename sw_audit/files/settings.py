"""The settings of a descendant beside its parent's: what changes the computation, and when generation stops."""

from __future__ import annotations

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.policy.policy import Policy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.files import ComparedSettings


def compare_settings(
    model: CheckpointFolder, parent: CheckpointFolder, policy: Policy, progress: Progress = ignore_progress
) -> ComparedSettings:
    """Compare every setting of a descendant with its parent's."""
    raise NotImplementedError
