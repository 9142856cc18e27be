"""sw-audit: a test suite for model weights.

    from sw_audit import Policy, locate_super_weights, open_checkpoint, run

What needs torch is loaded when it is first asked for (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_PUBLIC = {
    "AuditError": "errors",
    "Checkpoint": "checkpoint.opening",
    "ModelResult": "record.record",
    "CorpusPolicy": "policy.policy",
    "CriticalPolicy": "policy.policy",
    "CriticalSearch": "record.critical",
    "InputError": "errors",
    "Location": "record.location",
    "ModelPolicy": "policy.policy",
    "Outcome": "record.location",
    "Policy": "policy.policy",
    "Record": "record.record",
    "Status": "record.verdict",
    "SuperActivation": "record.location",
    "SuperWeight": "record.location",
    "Verdict": "record.verdict",
    "WeightAddress": "record.address",
    "ScalarAddress": "record.address",
    "check_bytes": "critical_bytes",
    "find_critical_scalars": "critical.search",
    "judge_result": "checks.judging",
    "locate_super_weights": "locate.locator",
    "make_bit_sheet": "runner.bits",
    "open_checkpoint": "checkpoint.opening",
    "parse_recipe": "policy.recipe",
    "read_policy": "policy.reading",
    "read_record": "record.store",
    "round_to_nearest": "quantize.rtn",
    "run": "runner.run",
    "run_model": "runner.run",
    "show_progress": "cli.progress",
    "stream_location": "locate.locator",
    "write_bit_sheet": "runner.bits",
}

__all__ = [
    "AuditError",
    "Checkpoint",
    "CorpusPolicy",
    "CriticalPolicy",
    "CriticalSearch",
    "InputError",
    "Location",
    "ModelPolicy",
    "ModelResult",
    "Outcome",
    "Policy",
    "Record",
    "ScalarAddress",
    "Status",
    "SuperActivation",
    "SuperWeight",
    "Verdict",
    "WeightAddress",
    "__version__",
    "check_bytes",
    "find_critical_scalars",
    "judge_result",
    "locate_super_weights",
    "make_bit_sheet",
    "open_checkpoint",
    "parse_recipe",
    "read_policy",
    "read_record",
    "round_to_nearest",
    "run",
    "run_model",
    "show_progress",
    "stream_location",
    "write_bit_sheet",
]

if TYPE_CHECKING:
    from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
    from sw_audit.checks.judging import judge_result
    from sw_audit.cli.progress import show_progress
    from sw_audit.critical.search import find_critical_scalars
    from sw_audit.critical_bytes import check_bytes
    from sw_audit.errors import AuditError, InputError
    from sw_audit.locate.locator import locate_super_weights, stream_location
    from sw_audit.policy.policy import CorpusPolicy, CriticalPolicy, ModelPolicy, Policy
    from sw_audit.policy.reading import read_policy
    from sw_audit.policy.recipe import parse_recipe
    from sw_audit.quantize.rtn import round_to_nearest
    from sw_audit.record.address import ScalarAddress, WeightAddress
    from sw_audit.record.critical import CriticalSearch
    from sw_audit.record.location import Location, Outcome, SuperActivation, SuperWeight
    from sw_audit.record.record import ModelResult, Record
    from sw_audit.record.store import read_record
    from sw_audit.record.verdict import Status, Verdict
    from sw_audit.runner.bits import make_bit_sheet, write_bit_sheet
    from sw_audit.runner.run import run, run_model


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sw_audit' has no public name {name!r}")
    return getattr(import_module(f"sw_audit.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
