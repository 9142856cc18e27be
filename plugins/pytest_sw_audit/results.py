"""What is known of one model after its measuring pass, and what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sw_audit.facts.policy import Policy
    from sw_audit.facts.record import Evidence, ModelFailure
    from sw_audit.facts.verdict import Verdict


@dataclass(frozen=True)
class Result:
    """What is known of one model after its measuring pass.

    Attributes:
        found: What was found and measured, or why its weights were not fit to be opened.
        verdicts: What follows, by check.
    """

    found: Evidence | ModelFailure
    verdicts: dict[str, Verdict]

    @property
    def evidence(self) -> Evidence | None:
        """What was found and measured; `None` if the model was not opened."""
        from sw_audit.facts.record import Evidence

        return self.found if isinstance(self.found, Evidence) else None

    @property
    def failure(self) -> ModelFailure | None:
        """Why the model was not opened; `None` if it was."""
        from sw_audit.facts.record import ModelFailure

        return self.found if isinstance(self.found, ModelFailure) else None


def judge_found(found: Evidence | ModelFailure, policy: Policy, checks: Sequence[str]) -> Result:
    """Judge what was found of a model, and put the policy's waivers on what follows.

    Args:
        found: What was found and measured, or why it was not.
        policy: The limits and the waivers.
        checks: Ids of the checks.
    """
    from sw_audit.facts.record import ModelFailure
    from sw_audit.judge import apply_waivers, judge_evidence, judge_failure

    if isinstance(found, ModelFailure):
        verdicts = judge_failure(found, policy, checks)
    else:
        verdicts = judge_evidence(found, policy, checks)
    today = datetime.now(UTC).date()
    return Result(found, {verdict.check: verdict for verdict in apply_waivers(verdicts, policy.waivers, today)})
