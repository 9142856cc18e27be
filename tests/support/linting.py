"""Looking at a checkpoint's weights, and the one flaw that is found."""

from __future__ import annotations

from pathlib import Path

from sw_audit.checkpoint.lint import lint_checkpoint
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.checkpoint import WeightsReport


def lint(folder: Path, **options: object) -> WeightsReport:
    return lint_checkpoint(ModelPolicy.model_validate({"source": str(folder), **options}))


def only(report: WeightsReport) -> tuple[str, str, str, bool]:
    [flaw] = report.flaws
    return flaw.kind, flaw.where, flaw.found, flaw.serious


def assert_healthy(report: WeightsReport, *, mild: int = 0) -> None:
    assert [flaw for flaw in report.flaws if flaw.serious] == []
    assert report.intact
    assert report.remedy is None
    assert len(report.flaws) == mild
    assert report.scanned == report.tensors > 0
