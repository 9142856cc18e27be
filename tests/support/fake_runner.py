"""A stand-in for measuring and drawing: both at once, so that the mechanics around them can be tried often.

The judging and the record are the real ones.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support.evidence import (
    NOT_PUBLISHED,
    make_evidence,
    make_failing_evidence,
    make_location,
    make_none_evidence,
    make_policy,
    tell_expected,
)

from sw_audit.checkpoint import opening
from sw_audit.checks import judging
from sw_audit.checks.judging import judge_result
from sw_audit.checks.registry import find_checks
from sw_audit.errors import CheckpointError
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record import rendering
from sw_audit.record.checkpoint import Flaw, WeightsReport
from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.record.verdict import Status, Verdict
from sw_audit.runner import run, single
from sw_audit.runner.single import ModelAudit

CONFTEST = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from support.fake_runner import install
install(setattr)
"""
"""For runs in processes of their own, where what a test patches is not seen."""

CHECKS = len([check for check in find_checks().values() if check.is_about("model")])
"""Built-in checks on a model by itself; `llama-...` passes them all."""

LAWS = "STANDIN_LAWS"

BESIDE = [check.id for check in find_checks().values() if check.is_about("descendant")]
"""Built-in checks on a model beside its parent."""

SIGNALS = {"ctrl-c": signal.SIGINT, "sigterm": signal.SIGTERM}
"""Models while which are measured a signal comes."""

STRIPPED = "model.layers.0.mlp.down_proj.weight"

_render = rendering.render_record


def count_statuses(model_id: str) -> Counter[Status]:
    """Count what the checks say of a model under the default policy; that they are right is tested elsewhere."""
    evidence = make_evidence_of(model_id, make_policy(model_id))
    return Counter(verdict.status for verdict in judge_result(evidence, make_policy(model_id)))


def install(replace: Callable[[object, str, object], None]) -> None:
    """Replace what loads, measures and draws; `replace` is `setattr` or `monkeypatch.setattr`.

    All checks are gates, so that those of every kind can pass and fail; laws are laws under `STANDIN_LAWS`.
    """
    real = judging.set_level

    def set_level(verdict: Verdict, policy: Policy) -> Verdict:
        return real(verdict, policy) if LAWS in os.environ else verdict

    replace(judging, "set_level", set_level)
    replace(run, "preflight", lambda _policy: None)
    replace(opening, "open_checkpoint", open_checkpoint)
    replace(single, "locate_model", lambda _checkpoint: make_location())
    replace(run, "measure_model", measure_model)
    replace(run, "tell_expected", tell_expected)
    replace(rendering, "render_record", render_record)


def measure_model(audit: ModelAudit, *_: Any) -> ModelResult | ModelFailure:
    """Return made-up evidence, or fail: the beginning of the id says of what kind."""
    model_id = audit.model.id
    note(f"measure {model_id} {os.getpid()} {' '.join(audit.checks)}")
    for done in range(3):
        audit.progress("measuring", done, 3)
    if model_id.startswith("gone"):
        raise CheckpointError(f"model {model_id!r}", "model.safetensors is truncated", "copy it again")
    if model_id.startswith("defect"):
        raise ZeroDivisionError("a defect that nobody foresaw")
    if model_id.startswith("interrupt"):
        raise KeyboardInterrupt
    if model_id in SIGNALS:
        signal.raise_signal(SIGNALS[model_id])
    if model_id.startswith("slow"):
        time.sleep(0.4)
    audit.progress("measuring", 3, 3)
    if model_id.startswith("stripped"):
        found = "it is stored as I8, and config.json has no quantization_config"
        return ModelFailure(model=model_id, message=f"model {model_id!r}: {found}", weights=make_report(found))
    return make_evidence_of(model_id, audit.policy)


def make_report(found: str) -> WeightsReport:
    """Return what a static look says of a checkpoint whose quantization config was lost."""
    flaw = Flaw(kind="codes-without-config", where=STRIPPED, found=found)
    remedy = "put the `quantization_config` of the quantized model back into config.json"
    return WeightsReport(
        files=1, tensors=30, scanned=30, flaws=(flaw,), counts={flaw.kind: 1}, serious=1, remedy=remedy
    )


def make_evidence_of(model_id: str, policy: Policy) -> ModelResult:
    """Return the made-up evidence on a model that can be measured."""
    if model_id.startswith("broken"):
        return make_failing_evidence(model_id, policy=policy)
    if model_id.startswith("control"):
        return make_none_evidence(model_id, policy=policy)
    if model_id.startswith("unlisted"):
        return make_evidence(model_id, policy=policy, published=NOT_PUBLISHED)
    windows = 2 if model_id.startswith("short") else 32
    return make_evidence(model_id, policy=policy, windows=windows, items=5 * windows)


def open_checkpoint(model: ModelPolicy) -> Any:
    """Return something in place of an open checkpoint."""
    model_id = model.id
    note(f"open {model_id} {os.getpid()}")
    if model_id.startswith("gone"):
        raise CheckpointError(f"model {model_id!r}", "model.safetensors is truncated", "copy it again")
    identity = SimpleNamespace(**dict(model), in_place=False)
    checkpoint = SimpleNamespace(identity=identity, model=SimpleNamespace(training=False))
    checkpoint.starting = lambda _rule: checkpoint
    return checkpoint


def render_record(record: Record, format: str = "html") -> str:  # noqa: A002 - as in the real one
    """Return a page without charts, and a word for every other form but JUnit, which the command reads itself."""
    if format == "junit":
        return _render(record, format)
    if os.environ.get("STANDIN_DEFECT") == "render":
        raise ZeroDivisionError("a defect of the page")
    return f"<title>{', '.join(model.id for model in record.models)} as {format}</title>"


def note(line: str) -> None:
    """Write down what was done, also where it is done in another process."""
    with Path(os.environ["STANDIN_NOTES"]).open("a", encoding="utf-8") as notes:
        notes.write(f"{line}\n")
