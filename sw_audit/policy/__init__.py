"""Read what an audit is asked to do, and write the file that asks for it."""

from sw_audit.policy.overlaying import overlay_policy
from sw_audit.policy.reading import parse_policy, read_policy
from sw_audit.policy.writing import commented_policy

__all__ = ["commented_policy", "overlay_policy", "parse_policy", "read_policy"]
