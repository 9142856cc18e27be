"""A descendant's files beside its parent's: everything that the selected checks ask of them."""

from __future__ import annotations

from collections.abc import Collection

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checks.registry import Need
from sw_audit.files.experts import compare_experts
from sw_audit.files.merge import replay_merge
from sw_audit.files.settings import compare_settings
from sw_audit.files.tensors import compare_tensors
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.files import ComparedFiles


def compare_files(
    model: ModelPolicy,
    parent: ModelPolicy,
    policy: Policy,
    needs: Collection[Need],
    progress: Progress = ignore_progress,
) -> ComparedFiles:
    """Hold the files of a descendant beside its parent's; neither is opened as a model.

    Raises:
        CheckpointError: If one of the two, or the adapter that is named, is not there or cannot be read.
    """
    ours, theirs = CheckpointFolder.require(model), CheckpointFolder.require(parent)
    return ComparedFiles(
        settings=compare_settings(ours, theirs, policy, progress) if Need.SETTINGS in needs else None,
        tensors=compare_tensors(ours, theirs, progress) if Need.TENSORS in needs else None,
        experts=compare_experts(ours, theirs, progress) if Need.EXPERTS in needs else None,
        merge=replay_merge(ours, theirs, progress) if Need.MERGE in needs and model.adapter else None,
    )
