"""Whether a model's weights are fit to be measured: its files, looked at before it is opened, and the opening."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sw_audit.checkpoint.folder import CheckpointFolder, inspect_folder
from sw_audit.checkpoint.lint import lint_checkpoint, lint_live
from sw_audit.checkpoint.lint_headers import add_flaw, report_broken
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import BrokenWeightsError, UnfitCheckpointError
from sw_audit.policy.policy import ModelPolicy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.checkpoint import WeightsReport
from sw_audit.record.record import ModelFailure

_Opened = TypeVar("_Opened")


def examine_weights(
    model: ModelPolicy,
    checkpoint: Checkpoint | None,
    progress: Progress = ignore_progress,
    *,
    beside: bool = False,
) -> WeightsReport | ModelFailure:
    """Look at a model's files, see `examine_files`; of one that is audited in place at its tensors in memory."""
    if checkpoint is None or not checkpoint.identity.in_place:
        return examine_files(model, progress, beside=beside)
    report = lint_live(checkpoint, progress)
    return report if report.intact else _fail(model, report)


def examine_files(
    model: ModelPolicy, progress: Progress = ignore_progress, *, beside: bool = False
) -> WeightsReport | ModelFailure:
    """Look at a model's files, value by value; return what was found, or a failure unless they are intact.

    `beside` says that its parent is there to tell what it should be: then it fails also as no language model.

    Raises:
        CheckpointError: If there is no checkpoint to look at.
    """
    try:
        report = lint_checkpoint(model, progress)
        if report.intact:
            if beside:
                inspect_folder(CheckpointFolder.require(model))
            return report
    except BrokenWeightsError as error:
        return ModelFailure(model=model.id, message=str(error), weights=report_broken(error))
    except UnfitCheckpointError as error:
        if not beside:
            raise
        return ModelFailure(model=model.id, message=str(error), weights=report_broken(error))
    return _fail(model, report)


def _fail(model: ModelPolicy, report: WeightsReport) -> ModelFailure:
    flaw = next(flaw for flaw in report.flaws if flaw.serious)
    message = f"model {model.source!r}: {flaw.where}: {flaw.found}; {report.remedy or 'replace the checkpoint'}"
    return ModelFailure(model=model.id, message=message, weights=report)


def open_examined(
    model: ModelPolicy, report: WeightsReport, open_model: Callable[[], _Opened]
) -> _Opened | ModelFailure:
    """Open a model whose files are intact; return a failure if its weights are not what it asks for after all.

    Raises:
        CheckpointError: If it cannot be opened for another reason.
    """
    try:
        return open_model()
    except BrokenWeightsError as error:
        return ModelFailure(model=model.id, message=str(error), weights=add_flaw(report, error))
