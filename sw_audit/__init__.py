"""sw-audit: a test suite for model weights.

    from sw_audit import Policy, audit_models, locate_super_weights, open_checkpoint

What needs torch is loaded when it is first asked for (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_ROOMS = {
    "AuditError": "errors",
    "Checkpoint": "checkpoint.opening",
    "Evidence": "facts.record",
    "InputError": "errors",
    "Location": "facts.location",
    "ModelPolicy": "facts.policy",
    "Outcome": "facts.location",
    "Policy": "facts.policy",
    "Record": "facts.record",
    "Status": "facts.verdict",
    "SuperActivation": "facts.location",
    "SuperWeight": "facts.location",
    "Verdict": "facts.verdict",
    "WeightAddress": "facts.address",
    "audit_models": "audit",
    "judge_evidence": "audit",
    "locate_super_weights": "locate.locator",
    "measure_model": "audit",
    "open_checkpoint": "checkpoint.opening",
    "parse_recipe": "facts.recipe",
    "read_policy": "policy",
    "read_record": "record.store",
    "round_to_nearest": "quantize.rtn",
    "stream_location": "locate.streaming",
}

__all__ = [
    "AuditError",
    "Checkpoint",
    "Evidence",
    "InputError",
    "Location",
    "ModelPolicy",
    "Outcome",
    "Policy",
    "Record",
    "Status",
    "SuperActivation",
    "SuperWeight",
    "Verdict",
    "WeightAddress",
    "__version__",
    "audit_models",
    "judge_evidence",
    "locate_super_weights",
    "measure_model",
    "open_checkpoint",
    "parse_recipe",
    "read_policy",
    "read_record",
    "round_to_nearest",
    "stream_location",
]

if TYPE_CHECKING:
    from sw_audit.audit import audit_models, judge_evidence, measure_model
    from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
    from sw_audit.errors import AuditError, InputError
    from sw_audit.facts.address import WeightAddress
    from sw_audit.facts.location import Location, Outcome, SuperActivation, SuperWeight
    from sw_audit.facts.policy import ModelPolicy, Policy
    from sw_audit.facts.recipe import parse_recipe
    from sw_audit.facts.record import Evidence, Record
    from sw_audit.facts.verdict import Status, Verdict
    from sw_audit.locate.locator import locate_super_weights
    from sw_audit.locate.streaming import stream_location
    from sw_audit.policy import read_policy
    from sw_audit.quantize.rtn import round_to_nearest
    from sw_audit.record.store import read_record


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module 'sw_audit' has no public name {name!r}")
    return getattr(import_module(f"sw_audit.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
