"""What a check's rule is given: what is known of the model, what the policy asks for, and how to conclude."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    hold_at_least,
    hold_at_most,
    keep_finite,
    make_finding,
    write_interval,
    write_number,
)
from sw_audit.checks.limits import AnyLimits
from sw_audit.checks.registry import Check
from sw_audit.checks.statistics import bound_perplexity_ratio, bound_ratio, tell_narrowing
from sw_audit.policy.model_policy import Expectation
from sw_audit.record.arm import BASELINE, Purpose
from sw_audit.record.baseline import Baseline
from sw_audit.record.descent import Descent
from sw_audit.record.identity import Protocol
from sw_audit.record.location import Location, Outcome
from sw_audit.record.measurement import Measurement, TokenLoss
from sw_audit.record.verdict import Evidence, Finding, Paste, Sample, Side, Status, Verdict, worst_status

if TYPE_CHECKING:
    from sw_audit.policy.policy import Policy
    from sw_audit.record.record import ModelFailure, ModelResult


@dataclass(frozen=True)
class Held:
    """An estimate, and what follows from it."""

    estimate: Estimate
    finding: Finding


@dataclass(frozen=True)
class StaticContext:
    """One check on the files of one model, which may not have been opened.

    Attributes:
        check: Which check.
        result: What was found in them.
        policy: The limits.
    """

    check: Check
    result: ModelResult | ModelFailure
    policy: Policy

    def limits(self, kind: type[AnyLimits]) -> AnyLimits:
        """Return the policy's limits of one class."""
        return self.policy.checks[kind]

    def conclude(
        self,
        status: Status,
        because: str,
        *,
        remedy: str | None = None,
        observed: float | None = None,
        limit: float | None = None,
        findings: Sequence[Finding] = (),
        paste: Sequence[Paste] = (),
    ) -> Verdict:
        """Return the verdict; see `CheckContext.conclude`. What is counted in files has no interval."""
        unwell = status in (Status.FAIL, Status.INCONCLUSIVE)
        return Verdict(
            check=self.check.id,
            model=self.result.id,
            status=status,
            observed=observed,
            limit=limit,
            side=self.check.side,
            quantity=self.check.quantity,
            because=because,
            remedy=remedy if unwell else None,
            paste=tuple(paste) if unwell else (),
            findings=tuple(findings),
        )


@dataclass(frozen=True)
class CheckContext:
    """One check on one model.

    Attributes:
        check: Which check.
        result: What was found and measured.
        policy: The limits.
        look: After which step of evidence it is judged, counted from 0.
        looks: How many steps were planned.
        item_looks: How many of them bring more multiple-choice items.
    """

    check: Check
    result: ModelResult
    policy: Policy
    look: int = 0
    looks: int = 1
    item_looks: int = 1

    @property
    def descent(self) -> Descent:
        """The model beside its parent; without a parent a descendant's check is not judged.

        Raises:
            LookupError: If there is none.
        """
        if self.result.descent is None:
            raise LookupError(f"{self.check.id} needs a model that was measured beside its parent")
        return self.result.descent

    @property
    def location(self) -> Location:
        """Where the scalars are that the check is about: the parent's, the baseline's, or the model's own."""
        if self.result.descent is not None and self.check.is_about("descendant"):
            return self.result.descent.parent_location
        if self.check.scope == "baseline" and self.result.baseline is not None:
            return self.result.baseline.location
        return self.result.location

    @property
    def located(self) -> bool:
        """Whether super weights were located."""
        return self.result.location.outcome is Outcome.LOCATED

    @property
    def expectation(self) -> Expectation:
        """What the policy expects of this model; a model it does not name is under the general rule."""
        named = next((model for model in self.policy.models if model.id == self.result.model.id), None)
        return self.policy.expect if named is None else self.policy.expectation(named)

    def limits(self, kind: type[AnyLimits]) -> AnyLimits:
        """Return the policy's limits of one class."""
        return self.policy.checks[kind]

    def key(self, name: str) -> str:
        """Write one of this check's limits as the policy has it, such as `[checks.CHECK] maximum_ratio`."""
        return f"[checks.{self.check.id}] {name}"

    @property
    def baseline(self) -> Baseline:
        """What was once known of the model; a baseline's check is skipped where there is none.

        Raises:
            LookupError: If there is none.
        """
        if self.result.baseline is None:
            raise LookupError(f"{self.check.id} needs a baseline")
        return self.result.baseline

    @property
    def confidence(self) -> float:
        """Coverage of every interval: at all looks together that of the policy (Bonferroni)."""
        return 1 - (1 - self.policy.confidence) / self.looks

    @property
    def item_confidence(self) -> float:
        """The same of intervals over multiple-choice items."""
        return 1 - (1 - self.policy.confidence) / self.item_looks

    @property
    def is_last_look(self) -> bool:
        """Whether no more text or items are to come."""
        return self.look + 1 == self.looks

    def find_measurement(self, arm: Purpose | str) -> Measurement | None:
        """Return an arm's measurement; one made under another protocol does not count."""
        measured = self.result.measured(arm)
        return measured if measured and measured.protocol == self.result.protocol.signature else None

    def compare_perplexities(
        self,
        arm: Purpose | str,
        against: Purpose | str = BASELINE.purpose,
        *,
        confidence: float | None = None,
    ) -> Estimate:
        """Return one arm's perplexity over another's, with its interval, of the check's confidence or another."""
        ours, theirs = self.find_measurement(arm), self.find_measurement(against)
        if ours is None or theirs is None:
            name = against if theirs is None else arm
            return Estimate(EstimateStatus.MISSING, f"the arm {str(name)!r} was not measured under this protocol")
        estimate = self.compare_losses(str(arm), ours.loss, str(against), theirs.loss, confidence)
        about = str(arm) if against == BASELINE.purpose else None
        return replace(estimate, arm=about, arms=(str(arm), str(against)))

    def compare_losses(
        self, arm: str, ours: TokenLoss, against: str, theirs: TokenLoss, confidence: float | None = None
    ) -> Estimate:
        """Return the perplexity of one loss over that of another on the windows that both have, with its interval.

        Args:
            arm: What the one is called.
            ours: Its loss.
            against: What the other is called.
            theirs: Its loss.
            confidence: Coverage of the interval, if not as usual.
        """
        count = min(len(ours.tokens), len(theirs.tokens))
        if self.looks > 1:
            ours, theirs = ours.first(count), theirs.first(count)
        if ours.tokens != theirs.tokens or not sum(ours.tokens):
            return Estimate(
                EstimateStatus.MISSING, f"the arms {arm!r} and {against!r} were not scored on the same tokens"
            )
        if theirs.perplexity is None:
            return Estimate(
                EstimateStatus.NO_REFERENCE, f"the perplexity of the arm {str(against)!r} is not finite"
            )
        if ours.perplexity is None:
            return Estimate(EstimateStatus.NOT_FINITE, f"the perplexity of the arm {str(arm)!r} is not finite")
        nats = ours.finite_nats
        bounds = bound_perplexity_ratio(nats, theirs.finite_nats, ours.tokens, confidence or self.confidence)
        ratio, low, high = bounds
        words = f"perplexity {write_number(theirs.perplexity)} becomes {write_number(ours.perplexity)}"
        if (few := self.count_short(len(nats), "windows")) is not None:
            words = f"{words}, times {write_number(ratio)}; {few}"
            return Estimate(EstimateStatus.TOO_FEW, words, ratio, sample=Sample(count=count))
        estimate = Estimate(EstimateStatus.MEASURED, words, ratio, low, high, sample=Sample(count=count))
        return replace(estimate, words=f"{words}, times {write_interval(estimate, self.policy.confidence)}")

    def find_protocol(self, signature: str) -> Protocol:
        """Return the protocol of a signature among those of the texts; the model's own for any other."""
        texts = () if self.result.descent is None else self.result.descent.texts
        protocols = [text.protocol for text in texts if text.protocol.signature == signature]
        return protocols[0] if protocols else self.result.protocol

    def count_tokens(self, windows: int, signature: str) -> int | None:
        """Return how many tokens are scored in the first windows under a protocol; `None` if that is not known."""
        texts = () if self.result.descent is None else self.result.descent.texts
        measured = [*self.result.measurements, *(one for text in texts for one in text.measurements)]
        tokens = [one.loss.tokens for one in measured if one.protocol == signature]
        return next((sum(counts[:windows]) for counts in tokens if len(counts) >= windows), None)

    def list_nats(self, arm: Purpose | str) -> list[float]:
        """Return the nats of each window of an arm whose loss is finite; none if it was not measured."""
        measured = self.find_measurement(arm)
        return [] if measured is None else measured.loss.finite_nats

    def share_loss(
        self, before: Sequence[float], after: Sequence[float], base: Sequence[float], words: str
    ) -> Estimate:
        """Return the share (before - after) / (before - base) of a loss that is won back, with its interval.

        All three are nats summed over the same windows, so they are paired there; what one of them has beyond the
        others does not count.

        Args:
            before: Per window, the nats of the arm that loses.
            after: Those of the arm that wins some back.
            base: Those of the arm that has lost nothing.
            words: What is won back, with braces where the share goes.
        """
        common = list(zip(before, after, base, strict=False))
        won = [lost - there for lost, there, _ in common]
        lost = [there - whole for there, _, whole in common]
        sample = Sample(count=len(common))
        share, low, high = bound_ratio(won, lost, self.confidence)
        if (few := self.count_short(len(common), "windows")) is not None:
            known = share if sum(lost) > 0 else None
            words = f"{words.format(write_number(known))}; {few}"
            return Estimate(EstimateStatus.TOO_FEW, words, known, sample=sample)
        span = write_interval(Estimate(EstimateStatus.MEASURED, "", share, low, high), self.policy.confidence)
        return Estimate(EstimateStatus.MEASURED, words.format(span), share, low, high, sample=sample)

    def count_short(self, count: int, what: str) -> str | None:
        """Say that there are too few windows or items for an interval, if there are."""
        enough = self.policy.minimum_windows
        return None if count >= enough else f"{count} {what} give no interval, {enough} are needed"

    def hold(self, estimate: Estimate, limit: float) -> Status:
        """Hold an estimate against a limit, of which the check's own side is good."""
        return (hold_at_least if self.check.side == "at least" else hold_at_most)(estimate, limit)

    def hold_each(self, estimates: Mapping[str, Estimate], limit: float) -> list[Held]:
        """Hold several estimates against one limit.

        Args:
            estimates: By label.
            limit: Of which the check's own side is good.
        """
        return [
            Held(estimate, make_finding(label, estimate, self.hold(estimate, limit), limit))
            for label, estimate in estimates.items()
        ]

    def decide(self, held: Sequence[Held]) -> Held:
        """Return what decides: of the worst status, the one furthest to the bad side; see `decide_finding`."""
        sign = -1 if self.check.side == "at least" else 1
        worst = decide_finding([one.finding for one in held], key=lambda finding: sign * (finding.observed or 0.0))
        return next(one for one in held if one.finding is worst)

    def judge(
        self,
        estimate: Estimate,
        limit: float,
        *,
        key: str,
        failed: str,
        status: Status | None = None,
        subject: str = "",
        wanted: str = "",
        more_words: str = "",
        remedy: str | None = None,
        more: str = "",
        **facts: Any,
    ) -> Verdict:
        """Conclude from one estimate that is held against one limit.

        The reason reads `SUBJECT WORDS; at most LIMIT is allowed MORE_WORDS.`, or `at least LIMIT is wanted`.

        Args:
            estimate: The figure that decides.
            limit: What it is held against.
            key: The policy key of the limit, see `key`.
            failed: What to do if the estimate is on the wrong side of its limit.
            status: What follows from the estimate, if it was not simply held against the limit.
            subject: What comes before the words of the estimate.
            wanted: What is said of the limit, with braces in its place, if not that.
            more_words: What comes after that.
            remedy: What to do, if not what `advise` says.
            more: See `advise`.
            facts: See `conclude`.
        """
        status = self.hold(estimate, limit) if status is None else status
        wanted = wanted or ("at least {} is wanted" if self.check.side == "at least" else "at most {} is allowed")
        return self.conclude(
            status,
            f"{subject}{estimate.words}; {wanted.format(write_number(limit))}{more_words}.",
            remedy=remedy or self.advise(status, estimate.status, failed=failed, key=key, more=more),
            **{"figure": estimate, "limit": limit, **facts},
        )

    def conclude(
        self,
        status: Status,
        because: str,
        *,
        remedy: str | None = None,
        figure: Estimate | Finding | None = None,
        limit: float | None = None,
        findings: Sequence[Finding] = (),
        quantity: str | None = None,
        measured: bool = True,
        protocol: str | None = None,
        paste: Sequence[Paste] = (),
        side: Side | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> Verdict:
        """Return the verdict.

        Args:
            status: The verdict.
            because: The reason, in words.
            remedy: What to do about it; left out of a pass and of a skipped check.
            figure: The figure that decided.
            limit: What it was held against.
            findings: The single figures.
            quantity: What the figure is, if not what the check usually measures.
            measured: Whether the figure was measured on the corpus, under the protocol.
            protocol: Signature of the protocol, if not the evidence's own.
            paste: The remedy as lines that can be pasted; left out where the remedy is.
            side: Which side of the limit is good, if not as usual.
            counts: What was counted.
        """
        unwell = status in (Status.FAIL, Status.INCONCLUSIVE)
        signature = protocol or self.result.protocol.signature
        evidence = weigh_evidence(self, figure, status, limit, signature)
        if evidence is not None and evidence.needed is not None:
            remedy = f"{remedy or ''} {tell_needed(self, evidence, signature)}".lstrip()
        return Verdict(
            check=self.check.id,
            model=self.result.model.id,
            status=status,
            observed=keep_finite(figure.observed) if figure else None,
            low=keep_finite(figure.low) if figure else None,
            high=keep_finite(figure.high) if figure else None,
            limit=limit,
            side=side or (figure.side if isinstance(figure, Finding) else None) or self.check.side,
            counts=dict(counts or {}),
            arm=figure.arm if figure else None,
            quantity=quantity or self.check.quantity,
            because=because,
            remedy=remedy if unwell else None,
            paste=tuple(paste) if unwell else (),
            coordinates=tuple(str(address) for address in self.location.addresses),
            protocol=signature if figure is not None and measured else None,
            findings=tuple(findings),
            evidence=evidence,
        )

    def skip(self, because: str, findings: Sequence[Finding] = ()) -> Verdict:
        """Conclude that the check does not apply."""
        return self.conclude(Status.SKIPPED, because, findings=findings)

    def advise(self, status: Status, rests_on: EstimateStatus, *, failed: str, key: str, more: str = "") -> str:
        """Return what to do about a verdict.

        Args:
            status: The verdict.
            rests_on: What the figure that decided rests on.
            failed: What to do if the figure is on the wrong side of its limit.
            key: The policy key of the limit, see `key`.
            more: How to get more windows or items, if not by more text.
        """
        more = more or "give a longer text in `[corpus] source` or raise `[corpus] windows`"
        if rests_on is EstimateStatus.MISSING:
            return "Run the audit again with this check selected, so that its arms are measured."
        if rests_on is EstimateStatus.NO_REFERENCE:
            return 'Look at the model itself: set `dtype = "float32"` for it, and see whether it is finite then.'
        if rests_on is EstimateStatus.TOO_FEW:
            return f"Measure more: {more}; or lower `minimum_windows`."
        if status is Status.INCONCLUSIVE:
            return f"Measure more ({more}) until the interval clears the limit, or change `{key}`."
        return failed


def decide_finding(findings: Sequence[Finding], key: Callable[[Finding], float]) -> Finding:
    """Return the finding that decides: of the worst status, the one with the largest key.

    A finding whose figure is missing or not finite comes before all others of its status.

    Args:
        findings: At least one.
        key: The larger, the worse.
    """
    status = worst_status(finding.status for finding in findings)
    worst = [finding for finding in findings if finding.status is status]
    return max(worst, key=lambda finding: math.inf if finding.observed is None else key(finding))


def report_estimate(label: str, estimate: Estimate) -> Finding:
    """Return a finding that is only reported: held against nothing, it decides nothing."""
    return make_finding(label, estimate, Status.SKIPPED, None)


def weigh_evidence(
    context: CheckContext, figure: Estimate | Finding | None, status: Status, limit: float | None, signature: str
) -> Evidence | None:
    """Say how much a figure rests on, and how much more would settle a doubt; `None` where it is no sample."""
    if figure is None or (sample := figure.sample) is None:
        return None
    windows = sample.unit == "windows"
    return Evidence(
        count=sample.count,
        unit=sample.unit,
        tokens=context.count_tokens(sample.count, signature) if windows else None,
        look=min(context.look + 1, context.looks if windows else context.item_looks),
        looks=context.looks if windows else context.item_looks,
        needed=_estimate_needed(context, figure, sample, limit) if status is Status.INCONCLUSIVE else None,
        arms=figure.arms,
    )


def _estimate_needed(
    context: CheckContext, figure: Estimate | Finding, sample: Sample, limit: float | None
) -> int | None:
    """Estimate how many windows or items would take the limit out of the interval, were the effect what it seems.

    The interval's half that crosses the limit narrows with the root of their number, and Student's quantile with
    it to the normal one. `None` where there is no interval, or the figure is the limit.
    """
    if figure.low is None and figure.high is None:
        return context.policy.minimum_windows if sample.count < context.policy.minimum_windows else None
    ends = (figure.observed, limit, figure.low, figure.high)
    known = [end for end in ends if end is not None and math.isfinite(end)]
    logarithmic = context.check.unit == "ratio"
    if len(known) < len(ends) or (logarithmic and min(known) <= 0):
        return None
    observed, held, low, high = (math.log(end) if logarithmic else end for end in known)
    distance, half = abs(held - observed), high - observed if held > observed else observed - low
    narrowing = tell_narrowing(sample.count, context.confidence) if sample.unit == "windows" else 1.0
    if distance == 0 or not math.isfinite(needed := sample.count * (half * narrowing / distance) ** 2):
        return None
    return max(sample.count + 1, math.ceil(needed))


def tell_needed(context: CheckContext, evidence: Evidence, signature: str) -> str:
    """Say how much more would settle a doubt, a sentence."""
    more = (evidence.needed or 0) - evidence.count
    window = context.find_protocol(signature).window
    what = f"windows of {window} tokens" if evidence.unit == "windows" else "items"
    return f"About {more:,} more {what} would settle this at the effect seen."
