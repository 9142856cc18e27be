"""A model in its engine beside the same files in transformers: there kernels, loaders and tokenizers differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.distributions import conclude_over_tokens, measure_mean_divergence
from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    doubt_without_reference,
    hold_at_least,
    hold_at_most,
    make_finding,
)
from sw_audit.checks.limits import Limits, Nonnegative, Ratio, Share
from sw_audit.checks.registry import check
from sw_audit.checks.statistics import bound_token_share
from sw_audit.record.arm import BASELINE, DEQUANTIZED
from sw_audit.record.engine import EngineResult
from sw_audit.record.measurement import Measurement
from sw_audit.record.verdict import Finding, Status, Verdict

_TOKENS, _CHAT = "Tokens", "Chat template"
_PERPLEXITY, _KLD, _TOP = "Perplexity", "Mean KLD", "Same likeliest token"
_QUANTITIES = {
    _TOKENS: "texts that are cut otherwise",
    _CHAT: "conversations that are written otherwise",
    _PERPLEXITY: "perplexity ratio, the larger over the smaller",
    _KLD: "mean KL divergence, nats per token",
    _TOP: "share of tokens",
}
_LOOK = (
    "The program computes something else than the files say: try another release of it, switch off its faster "
    "kernels (flash attention, repacked weights), and see that its loader reads every key of the configuration"
)


class EngineAgreesLimits(Limits):
    """Limits of `engine-agrees`, on the same tokens in both programs.

    Attributes:
        maximum_ratio: Largest perplexity of either over the other's.
        maximum_mean: Largest mean KL divergence, in nats per token. An engine that rounds activations to 8 bits is
            some thousandths of a nat away.
        minimum_share: Smallest share of tokens at which both find the same token most likely.
    """

    maximum_ratio: Ratio = 1.05
    maximum_mean: Nonnegative = 0.03
    minimum_share: Share = 0.9


@check(
    id="engine-agrees",
    order=195,
    title="The engine computes what the files say",
    meaning="What a kernel, a loader or a tokenizer breaks, no look at weights can see.",
    quantity=_QUANTITIES[_KLD],
    fails="tokens or chats are made otherwise than by the files, one perplexity is certainly more than 1.05 times "
    "the other, mean KLD above 0.03 nats, or the likeliest token the same at fewer than 90 % of the tokens",
    limits=EngineAgreesLimits,
    level="gate",
    unit="nats",
    side="at most",
    spread=0.71,
    scope="engine",
)
def engine_agrees(context: CheckContext) -> Verdict:
    """Rule of `engine-agrees`: the model in its engine against the same files, dequantized, in transformers."""
    limits, engine = context.limits(EngineAgreesLimits), context.result.engine
    if engine is None:
        return context.skip("It runs in transformers.")
    ours, theirs = context.find_measurement(BASELINE.purpose), context.find_measurement(DEQUANTIZED)
    findings = [*_hold_tokens(engine), *_hold_chats(engine)]
    resting: dict[str, EstimateStatus] = {}
    if ours is None or theirs is None:
        missing = Estimate(EstimateStatus.MISSING, "not measured under this protocol")
        held = {_KLD: (missing, Status.INCONCLUSIVE, limits.maximum_mean)}
    else:
        ratio = _compare(context, ours, theirs)
        divergence, share = _measure_divergence(context, ours, theirs), _measure_top(context, ours, theirs)
        held = {
            _PERPLEXITY: (ratio, hold_at_most(ratio, limits.maximum_ratio), limits.maximum_ratio),
            _KLD: (divergence, hold_at_most(divergence, limits.maximum_mean), limits.maximum_mean),
            _TOP: (share, hold_at_least(share, limits.minimum_share), limits.minimum_share),
        }
    for label, (estimate, status, limit) in held.items():
        finding = make_finding(label, estimate, doubt_without_reference(estimate, status), limit)
        findings.append(finding.model_copy(update={"side": "at least" if label == _TOP else "at most"}))
        resting[label] = estimate.status
    worst = decide_finding(findings, key=_rate)
    key = context.key({_PERPLEXITY: "maximum_ratio", _TOP: "minimum_share"}.get(worst.label, "maximum_mean"))
    return context.conclude(
        worst.status,
        f"{engine.identity.label} against transformers: {worst.label}: {worst.because}.",
        remedy=_advise(context, worst, resting.get(worst.label), key),
        figure=worst,
        limit=worst.limit,
        side=worst.side,
        findings=findings,
        quantity=_QUANTITIES[worst.label],
        measured=worst.label in resting,
    )


def _rate(finding: Finding) -> float:
    """Return how far a figure is to the bad side of its limit."""
    observed, limit = finding.observed or 0.0, finding.limit or 1.0
    return (1.0 - observed) / max(1.0 - limit, 1e-9) if finding.side == "at least" else observed / limit


def _advise(context: CheckContext, worst: Finding, rests_on: EstimateStatus | None, key: str) -> str:
    if worst.label == _TOKENS:
        return (
            "The files hold another tokenizer than the engine makes of them: see their pre-tokenizer "
            "(`tokenizer.ggml.pre` in GGUF) and convert them again with a release that knows it."
        )
    if worst.label == _CHAT:
        return "The engine writes conversations otherwise than the template of the files: name the template to it."
    failed = f"{_LOOK}; or, if so much is acceptable, change `{key}`."
    return context.advise(worst.status, rests_on or EstimateStatus.MEASURED, failed=failed, key=key)


def _hold_tokens(engine: EngineResult) -> Iterator[Finding]:
    texts = engine.tokenized
    if not texts:
        return
    other = [text for text in texts if text.first_difference is not None]
    because = f"both cut {len(texts)} texts into the same tokens"
    if other:
        first = other[0]
        because = (
            f"{len(other)} of {len(texts)} texts are cut otherwise than by the tokenizer of the files; "
            f"{first.text[:40]!r} from token {first.first_difference} on: {list(first.found)} and not "
            f"{list(first.expected)}"
        )
    yield _count(_TOKENS, len(other), because)


def _hold_chats(engine: EngineResult) -> Iterator[Finding]:
    chats = engine.chats
    if not chats:
        return
    other = [chat for chat in chats if chat.found != chat.expected]
    because = f"both write {len(chats)} conversations alike"
    if other:
        because = f"{len(other)} of {len(chats)} conversations are written otherwise: " + (
            other[0].because or f"{(other[0].found or '')[:60]!r} and not {other[0].expected[:60]!r}"
        )
    yield _count(_CHAT, len(other), because)


def _count(label: str, observed: int, because: str) -> Finding:
    status = Status.FAIL if observed else Status.PASS
    return Finding(
        label=label, status=status, observed=observed, limit=0, side="at most", because=because, arms=()
    )


def _compare(context: CheckContext, ours: Measurement, theirs: Measurement) -> Estimate:
    """Return the larger perplexity over the smaller."""
    names = BASELINE.name, DEQUANTIZED.name
    estimate = context.compare_losses(names[0], ours.loss, names[1], theirs.loss)
    if estimate.observed is not None and estimate.observed < 1:
        estimate = context.compare_losses(names[1], theirs.loss, names[0], ours.loss)
    return replace(estimate, arm=BASELINE.name)


def _measure_divergence(context: CheckContext, ours: Measurement, theirs: Measurement) -> Estimate:
    if (broken := _find_not_finite(ours, theirs)) is not None:
        return broken
    agreement = theirs.agreement
    if agreement.mean_divergence is None:
        return Estimate(EstimateStatus.NOT_FINITE, "not finite: one gives no chance to what the other expects")
    return measure_mean_divergence(context, agreement)


def _measure_top(context: CheckContext, ours: Measurement, theirs: Measurement) -> Estimate:
    if (broken := _find_not_finite(ours, theirs)) is not None:
        return broken
    agreement = theirs.agreement
    bounds = bound_token_share(agreement.same_top, agreement.tokens, context.confidence)
    return conclude_over_tokens(context, bounds, len(agreement.tokens), "at {} of the tokens")


def _find_not_finite(ours: Measurement, theirs: Measurement) -> Estimate | None:
    if ours.loss.mean_nats is None:
        return Estimate(EstimateStatus.NOT_FINITE, "not finite: the loss in the engine is not")
    if theirs.loss.mean_nats is None:
        return Estimate(EstimateStatus.NO_REFERENCE, "not known: the loss in transformers is not finite")
    return None
