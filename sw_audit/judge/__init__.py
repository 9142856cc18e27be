"""Judge measurements: pure rules that hold each figure's interval against the policy's limit."""

from sw_audit.judge.bench import judge_evidence, list_checks
from sw_audit.judge.extra import ExtraCheck, find_extra_checks
from sw_audit.judge.waivers import apply_waivers, examine_waivers
from sw_audit.judge.weights import judge_failure

__all__ = [
    "ExtraCheck",
    "apply_waivers",
    "examine_waivers",
    "find_extra_checks",
    "judge_evidence",
    "judge_failure",
    "list_checks",
]
