"""What putting parts of the parent back into a descendant recovers, and which few of them recover most of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus, write_number
from sw_audit.checks.pairs import Pair, pair_up
from sw_audit.record.address import ScalarAddress, WeightAddress
from sw_audit.record.arm import (
    DESCENDANT,
    PARENT,
    Arm,
    Purpose,
    RestoredKind,
    RestoredLayer,
    RestoredLayers,
    RestoredModule,
    RestoredPart,
    RestoredScalars,
    RestoredSet,
    RestoredWeights,
    SwapModules,
)

HEALS = 0.8
"""The part of the loss that is certain to be recovered by what is advised."""
# Of parts that recover this much of what the best recovers, the smallest is taken.
_ALIKE = 0.9
# To leave out more than this part of all modules is another quantization, and no exception.
_FEW = 1 / 3


@dataclass(frozen=True)
class Recovery:
    """What putting one part of the parent, or several, back into the descendant does.

    Attributes:
        arm: Which arm.
        subject: What is put back, in words.
        added: Its last part, in words.
        modules: The modules that it is in.
        holding: Those of these of which only super weights are put back.
        size: How many of these are replaced whole.
        estimate: The share of the lost nats that it recovers; without a number where the descendant is not finite.
        left: The perplexity that is left, over the parent's; `None` if missing or not finite.
        score: That share; of a loss that is not finite, the parent's perplexity over what is left; -inf if that is
            not finite either.
        heals: Whether it is certain to recover 80 % of the loss, or to bring one that is not finite within the
            margin.
    """

    arm: Purpose
    subject: str
    added: str
    modules: tuple[str, ...]
    holding: tuple[str, ...]
    size: int
    estimate: Estimate
    left: float | None
    score: float
    heals: bool

    @property
    def parts(self) -> tuple[RestoredPart, ...]:
        """What is put back, part by part; none where it is all that decoder layers hold."""
        return list_parts(self.arm)

    @property
    def told(self) -> str:
        """What it recovers, in words: `15.2 % [11.1, 19.3] of the loss is recovered (times 1.78 is left)`."""
        return self._write(" of the loss is recovered", "is left")

    @property
    def share(self) -> str:
        """The same in fewer words, for what follows: `15.2 % [11.1, 19.3] (times 1.78)`."""
        return self._write("", "")

    def _write(self, recovered: str, left: str) -> str:
        observed, interval = self.estimate.observed, self.estimate.interval
        if observed is None:
            return self.estimate.words
        ends = "" if interval is None else f" [{', '.join(f'{100 * end:.3g}' for end in interval)}]"
        rest = f"times {write_number(self.left)} {left}".rstrip()
        return f"{100 * observed:.3g} %{ends}{recovered} ({rest})"


class Tried(NamedTuple):
    """What was put back, how much that recovers, how many modules it replaces whole, and whether it heals."""

    arm: Purpose
    score: float
    size: int
    heals: bool = False


@dataclass(frozen=True)
class Search:
    """Everything that was put back on one text.

    Attributes:
        pair: Both models on that text.
        recoveries: As they were measured; none where there is no certain loss.
        total: How many modules the decoder layers have, where more than the super weights was put back.
    """

    pair: Pair
    recoveries: tuple[Recovery, ...]
    total: int = 0

    @cached_property
    def path(self) -> list[Recovery]:
        """The greedy path, see `trace_path`."""
        return [self._by_arm[arm] for arm in trace_path(self._tried)]

    @property
    def healing(self) -> Recovery | None:
        """Of what heals, the part or set with the fewest modules; `None` where nothing does."""
        smallest = find_smallest(self._tried)
        return None if smallest is None else self._by_arm[smallest]

    @property
    def advised(self) -> Recovery | None:
        """What to leave out of quantization: what heals, unless that is too much to be an exception."""
        return None if self.spread else self.healing

    @property
    def weights(self) -> Recovery | None:
        """What the super weights recover."""
        return next((one for one in self.recoveries if isinstance(one.arm, RestoredWeights)), None)

    def find_scalars(self, scalar: ScalarAddress | None = None) -> Recovery | None:
        """Return what one of the parent's critical scalars recovers, or all that were not kept."""
        return self._by_arm.get(RestoredScalars(scalar=scalar))

    @property
    def healing_scalars(self) -> Recovery | None:
        """What all critical scalars recover that were not kept, if that heals."""
        scalars = self.find_scalars()
        return scalars if scalars is not None and scalars.heals else None

    @property
    def whole(self) -> Recovery | None:
        """What all that decoder layers hold recovers; `None` where no more than single parts were looked for."""
        return next((one for one in self.recoveries if isinstance(one.arm, RestoredLayers)), None)

    @property
    def spread(self) -> bool:
        """Whether the loss is spread over many modules.

        That is so where no set that was tried is certain to recover 80 %, or the one that does replaces more than
        a third of all modules.
        """
        return self.total > 0 and (self.healing is None or not self.is_few(self.healing.size))

    def is_few(self, size: int) -> bool:
        """Tell whether so many modules are an exception: a third of all at most."""
        return size <= _FEW * self.total

    @property
    def outside(self) -> bool:
        """Whether it is certain that all that decoder layers hold does not recover 80 %."""
        whole = self.whole
        high = whole.estimate.interval[1] if whole and whole.estimate.interval else math.inf
        return high < HEALS

    @cached_property
    def _by_arm(self) -> dict[Purpose, Recovery]:
        return {recovery.arm: recovery for recovery in self.recoveries}

    @property
    def _tried(self) -> list[Tried]:
        return [Tried(one.arm, one.score, one.size, one.heals) for one in self.recoveries]


def find_smallest(tried: Iterable[Tried]) -> Purpose | None:
    """Return what heals with the fewest modules, but for all that decoder layers hold; `None` if nothing does."""
    healing = [one for one in tried if one.heals and list_parts(one.arm)]
    best = min(healing, key=lambda one: (one.size, len(list_parts(one.arm)), -one.score), default=None)
    return None if best is None else best.arm


def trace_path(tried: Iterable[Tried]) -> list[Purpose]:
    """Return what is put back step by step: the part that recovers most, then each time the one that adds most.

    Of those that add 90 % of what the best adds, the one with the fewest modules is taken. What was tried beside
    one path is not held against what was tried beside another. The path ends where nothing is added.
    """
    path: list[Purpose] = []
    listed, floor = list(tried), 0.0
    while True:
        before = list_parts(path[-1]) if path else ()
        here = [
            one
            for one in listed
            if len(parts := list_parts(one.arm)) == len(before) + 1 and parts[:-1] == before and one.score > floor
        ]
        if not here:
            return path
        enough = floor + _ALIKE * (max(one.score for one in here) - floor)
        best = min((one for one in here if one.score >= enough), key=lambda one: (one.size, -one.score))
        path.append(best.arm)
        floor = best.score


def list_parts(arm: Purpose) -> tuple[RestoredPart, ...]:
    """Return what an arm puts back, part by part; none where that is all that decoder layers hold."""
    match arm:
        case RestoredSet(parts=parts):
            return parts
        case RestoredWeights() | RestoredModule() | RestoredLayer() | RestoredKind():
            return (arm,)
        case _:
            return ()


def list_searches(context: CheckContext, margin: float) -> list[Search]:
    """Return what was put back, text by text, the search on the beginning of the first text before all others.

    Args:
        context: The descendant.
        margin: What perplexity may be over the parent's.
    """
    pairs, recovery = pair_up(context), context.descent.recovery
    searches = [Search(pair, measure_recoveries(context, pair, margin)) for pair in pairs]
    if recovery is None:
        return searches
    pair = Pair(context.descent.recovery_label, recovery)
    found = measure_recoveries(context, pair, margin)
    return [Search(pair, found, total=context.descent.modules), *searches]


def measure_recoveries(context: CheckContext, pair: Pair, margin: float) -> tuple[Recovery, ...]:
    """Return what each counterfactual on a text recovers.

    The share is (descendant - restored) / (descendant - parent), each in nats summed over the same windows, so
    all three arms are paired. Where the descendant does no certain harm there is no loss to recover.
    """
    harm = pair.compare(context)
    if not is_certain(harm):
        return ()
    recoveries = (
        _measure_recovery(context, pair, harm, measured.arm, margin) for measured in pair.text.measurements
    )
    return tuple(recovery for recovery in recoveries if recovery is not None)


def is_certain(harm: Estimate) -> bool:
    """Tell whether there is a loss that something could recover: an interval above 1, too few windows, no end."""
    if harm.status in (EstimateStatus.MISSING, EstimateStatus.NO_REFERENCE):
        return False
    return harm.status is not EstimateStatus.MEASURED or (harm.low is not None and harm.low > 1)


def name_modules(addresses: Sequence[WeightAddress]) -> tuple[str, ...]:
    """Return the modules that hold some scalars, each once: the parameter's name without its last part."""
    return tuple(dict.fromkeys(address.parameter.rpartition(".")[0] for address in addresses))


def _measure_recovery(
    context: CheckContext, pair: Pair, harm: Estimate, arm: Arm, margin: float
) -> Recovery | None:
    if not (list_parts(arm.purpose) or isinstance(arm.purpose, RestoredLayers | RestoredScalars)):
        return None
    remaining = pair.compare(context, arm.purpose)
    if remaining.status is EstimateStatus.MISSING:
        return None
    estimate = _measure_share(context, pair, harm, remaining, arm.purpose)
    score, heals = estimate.observed, estimate.interval is not None and estimate.interval[0] >= HEALS
    if harm.status is EstimateStatus.NOT_FINITE and remaining.observed is not None:
        score, heals = 1 / remaining.observed, remaining.interval is not None and remaining.interval[1] <= margin
    swapped = list_swapped(arm)
    scalars = any(isinstance(part, RestoredWeights) for part in list_parts(arm.purpose))
    holding = name_modules(context.descent.parent_location.addresses) if scalars else ()
    return Recovery(
        arm=arm.purpose,
        subject=_name_part(context, arm.purpose),
        added=_name_part(context, (list_parts(arm.purpose) or (arm.purpose,))[-1]),
        modules=tuple(dict.fromkeys([*holding, *swapped])),
        holding=tuple(name for name in holding if name not in swapped),
        size=len(swapped),
        estimate=replace(estimate, arm=arm.name, text=pair.label),
        left=remaining.observed,
        score=-math.inf if score is None else score,
        heals=heals,
    )


def list_swapped(arm: Arm) -> list[str]:
    """List the modules that an arm replaces whole."""
    return [name for act in arm.acts if isinstance(act, SwapModules) for name in act.modules]


def _name_part(context: CheckContext, arm: Purpose) -> str:
    match arm:
        case RestoredWeights():
            count = len(context.descent.parent_location.addresses)
            return f"the parent's {f'{count} super weights' if count > 1 else 'super weight'}"
        case RestoredScalars(scalar=scalar):
            return f"the parent's {'critical scalars' if scalar is None else scalar}"
        case RestoredModule(module=module):
            return f"the parent's {module}"
        case RestoredLayer(layer=layer):
            return f"all of the parent's {layer}"
        case RestoredKind(path=path):
            return f"every {path} of the parent"
        case RestoredSet(parts=parts):
            *names, last = (_name_part(context, part) for part in parts)
            return f"{', '.join(names)} and {last}"
        case _:
            return "all of the parent's decoder layers"


def _measure_share(
    context: CheckContext, pair: Pair, harm: Estimate, remaining: Estimate, arm: Purpose
) -> Estimate:
    if remaining.status is EstimateStatus.NOT_FINITE:
        return Estimate(EstimateStatus.NOT_FINITE, f"nothing is recovered: {remaining.words}")
    if harm.status is EstimateStatus.NOT_FINITE:
        words = f"the perplexity is finite again, {write_number(remaining.observed)} times the parent's"
        return Estimate(EstimateStatus.TOO_FEW, words)
    before, after, base = (pair.list_nats(purpose) for purpose in (DESCENDANT, arm, PARENT))
    return context.share_loss(before, after, base, "a share of {} of the lost nats is recovered")
