"""What zeroing matched controls does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sw_audit.checks.arms import ArmPlan, Draws, prune
from sw_audit.checks.context import CheckContext
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.registry import check
from sw_audit.record.arm import CONTROL_KINDS, Arm, Placebo
from sw_audit.record.verdict import Verdict

if TYPE_CHECKING:
    from sw_audit.policy.policy import Policy


class PlaceboHarmlessLimits(Limits):
    """Limits of `placebo-harmless`.

    Attributes:
        maximum_ratio: Perplexity ratio; a replication measures 1.001 for the 100 largest weights, one by one.
        draws: Sets drawn of each kind (same row, same column, same magnitude rank, random). None has a part in a
            super activation, as far as the locating prompt shows: see `Involved` in `locate/controls.py`.
    """

    maximum_ratio: Ratio = 1.1
    draws: int = Field(default=3, ge=1, le=100)


def list_placebos(policy: Policy) -> tuple[Placebo, ...]:
    """Return the matched controls that the policy asks for."""
    draws = policy.checks[PlaceboHarmlessLimits].draws
    return tuple(Placebo(control=kind, draw=draw + 1) for kind in CONTROL_KINDS for draw in range(draws))


def draw_placebos(policy: Policy, decoder_weights: int) -> Draws:
    """Ask for all matched controls, whatever the size of the model."""
    del decoder_weights
    return Draws(placebos=list_placebos(policy))


def plan_placebos(plan: ArmPlan) -> list[Arm]:
    """Zero each matched control; none where there is no set to match."""
    targets = plan.targets
    drawn = targets.placebos.items() if targets.super_weights else ()
    return [prune(placebo, addresses) for placebo, addresses in drawn if addresses]


@check(
    id="placebo-harmless",
    order=50,
    title="Zeroing matched controls does nothing",
    meaning="The damage belongs to these scalars, not to their row, column or size.",
    quantity="perplexity ratio, worst control",
    fails="one grows perplexity more than 1.1 times",
    limits=PlaceboHarmlessLimits,
    measured=frozenset({"draws"}),
    level="law",
    known="times 1.001 for the 100 largest weights of a model, one by one (a replication)",
    side="at most",
    needs_super_weight=True,
    draws=draw_placebos,
    arms=plan_placebos,
)
def placebo_harmless(context: CheckContext) -> Verdict:
    """Rule of `placebo-harmless`: every draw of every kind must be harmless, the worst one decides."""
    limit, key = context.limits(PlaceboHarmlessLimits).maximum_ratio, context.key("maximum_ratio")
    held = context.hold_each(
        {placebo.name: context.compare_perplexities(placebo) for placebo in list_placebos(context.policy)}, limit
    )
    worst = context.decide(held)
    return context.judge(
        worst.estimate,
        limit,
        subject=f"Of {len(held)} matched controls the worst is {worst.finding.label}: ",
        key=key,
        failed="Do not lay the damage to the super weights alone: controls that share their row, column or "
        f"size do harm too; draw more of them (`{context.key('draws')}`) or raise `{key}`.",
        findings=[one.finding for one in held],
    )
