"""Judge measurements: pure rules that hold each figure's interval against the policy's limit."""

from sw_audit.judge.bench import judge_evidence, list_checks
from sw_audit.judge.extra import ExtraCheck, find_extra_checks

__all__ = ["ExtraCheck", "find_extra_checks", "judge_evidence", "list_checks"]
