"""Whether the experts that seem to matter do more than others that serve as many tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sw_audit.checks.arms import ArmPlan
from sw_audit.checks.context import CheckContext, report_estimate
from sw_audit.checks.estimate import EstimateStatus, doubt_without_reference
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.registry import Need, check
from sw_audit.checks.unreached import find_routing
from sw_audit.record.arm import Arm, ZeroedExpert, ZeroedExperts, ZeroExperts
from sw_audit.record.experts import Mark, TriedExpert
from sw_audit.record.verdict import Finding, Status, Verdict

MARKED, CONTROLS = ZeroedExperts(), ZeroedExperts(control=True)
_MARKS: dict[Mark, str] = {
    "super-weight": "holds a super weight",
    "critical-scalar": "holds a critical scalar",
    "output": "its output stands out",
}


class SuperExpertsExceedControlsLimits(Limits):
    """Limits of `super-experts-exceed-controls`.

    Attributes:
        minimum_ratio: Smallest perplexity with the marked experts zeroed, over that with their controls zeroed.
    """

    minimum_ratio: Ratio = 1.1


def _plan(plan: ArmPlan) -> Iterator[Arm]:
    """Zero each expert by itself, then all that are marked together, and all controls."""
    for expert in plan.targets.experts:
        yield _zero(name_expert(expert), [expert])
    for purpose in (MARKED, CONTROLS):
        members = [expert for expert in plan.targets.experts if expert.is_control is purpose.control]
        if members:
            yield _zero(purpose, members)


def _zero(purpose: ZeroedExpert | ZeroedExperts, experts: Sequence[TriedExpert]) -> Arm:
    return Arm(purpose=purpose, acts=(ZeroExperts(experts=tuple(expert.address for expert in experts)),))


def name_expert(expert: TriedExpert) -> ZeroedExpert:
    """Return the purpose of the arm in which one expert is zeroed."""
    return ZeroedExpert(layer=expert.address.layer, number=expert.address.number, control=expert.is_control)


@check(
    id="super-experts-exceed-controls",
    order=65,
    title="Zeroing the super experts does more harm than zeroing others",
    meaning="A few experts may carry a mixture: what quantizes, merges or prunes experts has to spare them.",
    quantity="perplexity ratio",
    fails="with them zeroed, perplexity is less than 1.1 times that with as many other experts zeroed",
    limits=SuperExpertsExceedControlsLimits,
    level="law",
    known="zeroing 3 of 6,144 experts breaks Qwen3-30B-A3B, and other experts do not (Su et al. 2025)",
    side="at least",
    needs=frozenset({Need.ROUTING}),
    arms=_plan,
)
def super_experts_exceed_controls(context: CheckContext) -> Verdict:
    """Rule of `super-experts-exceed-controls` (Su et al. 2025).

    The marked experts, zeroed together, against as many controls, zeroed together: each control was routed at
    least as many tokens as the expert that it stands beside, if there is one. Perplexity is that of the whole
    text; how many tokens were routed to an expert is told beside what it does alone, which decides nothing. Where
    zeroing leaves no finite perplexity, it does more: PASS, without a figure. Skipped of a dense model.
    """
    study = context.result.experts
    if study is None:
        off = "No expert is tried: `[experts] tried` is 0." if not context.policy.experts.tried else None
        return context.skip(off or "The model has no experts that tokens are routed to.")
    if not study.tried:
        return context.skip(f"None of its {study.experts} experts could be followed, or none is marked.")
    if not any(expert.is_control for expert in study.tried):
        return context.skip("Every expert that a token was routed to is marked, so there is no control.")
    limit = context.limits(SuperExpertsExceedControlsLimits).minimum_ratio
    estimate = context.compare_perplexities(MARKED, CONTROLS)
    findings = [_report(context, expert) for expert in study.tried]
    findings += [report_estimate(str(arm), context.compare_perplexities(arm)) for arm in (MARKED, CONTROLS)]
    count = sum(not expert.is_control for expert in study.tried)
    counts = {"experts": study.experts, "marked": study.marked, "tried": count}
    if estimate.status is EstimateStatus.NOT_FINITE:
        because = f"With {count} marked experts zeroed the model is broken beyond measure: {estimate.words}."
        return context.conclude(
            Status.PASS, because, figure=estimate, limit=limit, findings=findings, counts=counts
        )
    return context.judge(
        estimate,
        limit,
        status=doubt_without_reference(estimate, context.hold(estimate, limit)),
        subject=f"{count} marked of {study.experts} experts zeroed instead of as many controls: ",
        key=context.key("minimum_ratio"),
        failed="This is a finding and no defect: no expert was found that the model cannot do without; raise "
        "`[experts] tried` to try more of them.",
        findings=findings,
        counts=counts,
    )


def _report(context: CheckContext, expert: TriedExpert) -> Finding:
    """Report what one expert does alone, and how much of the text was routed to it."""
    address = expert.address
    layer = next((one for one in find_routing(context.result) if one.layer == address.layer), None)
    told = ", ".join(_MARKS[mark] for mark in expert.marks) or "control"
    if layer is not None:
        told += f"; {layer.tokens[address.number]:,} tokens of the text were routed to it"
        if (share := layer.share(address.number)) is not None:
            told += f", {100 * share:.2g} % of its layer's routing weight"
    purpose = name_expert(expert)
    finding = report_estimate(purpose.name, context.compare_perplexities(purpose))
    return finding.model_copy(update={"because": f"{finding.because}; {told}"})
