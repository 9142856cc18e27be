"""What is known of one model after its measuring pass, and what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sw_audit.policy.policy import Policy
    from sw_audit.record.record import ModelFailure, ModelResult
    from sw_audit.record.verdict import Verdict


@dataclass(frozen=True)
class Result:
    """What is known of one model after its measuring pass.

    Attributes:
        found: What was found and measured, or why its weights were not fit to be opened.
        verdicts: What follows, by check.
    """

    found: ModelResult | ModelFailure
    verdicts: dict[str, Verdict]

    @property
    def evidence(self) -> ModelResult | None:
        """What was found and measured; `None` if the model was not opened."""
        from sw_audit.record.record import ModelResult

        return self.found if isinstance(self.found, ModelResult) else None

    @property
    def failure(self) -> ModelFailure | None:
        """Why the model was not opened; `None` if it was."""
        from sw_audit.record.record import ModelFailure

        return self.found if isinstance(self.found, ModelFailure) else None


def judge_found(found: ModelResult | ModelFailure, policy: Policy, checks: Sequence[str]) -> Result:
    """Judge what was found of a model, and put the policy's waivers on what follows.

    Args:
        found: What was found and measured, or why it was not.
        policy: The limits and the waivers.
        checks: Ids of the checks.
    """
    from sw_audit.checks.registry import judge_evidence
    from sw_audit.checks.waivers import apply_waivers
    from sw_audit.checks.weights import judge_failure
    from sw_audit.record.record import ModelFailure

    if isinstance(found, ModelFailure):
        verdicts = judge_failure(found, policy, checks)
    else:
        verdicts = judge_evidence(found, policy, checks)
    today = datetime.now(UTC).date()
    return Result(found, {verdict.check: verdict for verdict in apply_waivers(verdicts, policy.waivers, today)})
