"""Searches for the scalars that a model depends on, among all its parameters.

1. Candidates: the scalars of highest |w dL/dw| (`sw_audit.critical.gradients`), the largest products of
   down-projections beside the residual stream, and all that the locator named.
2. Those that are likely, or cheap to try, are zeroed one by one, the others in groups, all as arms of one pass on
   the first windows. Members of a group are of different channels of the residual stream, for what masks another
   does it through a channel. A group that costs as much as counts is taken apart by halving (Sobel and Groll 1959,
   Bell System Technical Journal 38, pages 1179 to 1252).
3. What may matter goes on to more windows, step by step, until its interval, corrected for the number of
   candidates and steps (Bonferroni), is on one side of the limit.
4. Sets: all candidates that write into one channel and do not matter alone are zeroed together. Where that costs
   something, each is left out in turn: those without which it costs less make the set, if together they cost more
   than one by one.
5. The located super weights are taken apart likewise: one is bearing if it costs something alone, or if the set
   costs less without it. With them zeroed, what writes into their channel or scales it is tried once more, in
   groups: what makes the damage smaller masks it, what makes it larger belongs to the set.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from transformers import GenerationConfig

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.parameters import name_parameters
from sw_audit.corpus.looks import plan_looks
from sw_audit.corpus.text import read_corpus
from sw_audit.corpus.windows import Windows, window_corpus
from sw_audit.critical.gradients import NoGradientError, Ranking, Scored, cut_pieces, rank_scalars
from sw_audit.critical.trials import NOTHING, Trial, Trials, Tried, zeroing
from sw_audit.locate.locator import locate_super_weights
from sw_audit.policy.policy import CorpusPolicy, CriticalPolicy, Intervention, Policy
from sw_audit.progress import Progress, ignore_progress, tell_stage
from sw_audit.record.address import ScalarAddress, WeightAddress
from sw_audit.record.critical import CriticalKind, CriticalScalar, CriticalSearch, CriticalSet, Effect
from sw_audit.record.location import Impact, Location
from sw_audit.record.measurement import Look

CANDIDATES, CANDIDATES_IN_AUDIT = 160, 64
"""How many scalars of highest gradient are tried where the policy does not say."""
MOST_TOKENS, MOST_TOKENS_IN_AUDIT = 1024, 512
"""Of a long text so many tokens are used at most, unless all of it is asked for."""
COSTLIEST = 12
"""Of so many scalars it is told what other values do."""
PIECES = ((32, 4), (16, 8))
"""Tokens in the pieces of text that are differentiated, and how many there are: longer and shorter ones. What one
of both ranks high is a candidate: what carries far shows in long pieces, what cancels in short ones."""
SINGLES = 32
"""So many candidates of highest rank are tried alone from the beginning."""
CHEAP = 0.1
"""What runs no more than this part of the layers is tried alone, too."""
GROUP = 4
"""Members of a group; twice as many of what the gradient does not rank."""
_OWN_ROWS, _OWN_LENGTH = 8, 64
"""Sequences that a model writes where there is no text, and tokens in each."""
_NOTABLE = 0.05
"""Part of a set's damage that a scalar must make up or take away to count in it."""
_MOST_WRITERS = 24
"""Candidates of one channel that are tried together, at most."""


def find_critical_scalars(
    checkpoint: Checkpoint,
    text: CorpusPolicy | Windows | None = None,
    location: Location | None = None,
    policy: CriticalPolicy | None = None,
    *,
    name: str | None = None,
    confidence: float = 0.95,
    minimum_windows: int = 4,
    most_tokens: int | None = MOST_TOKENS,
    seed: int = 0,
    progress: Progress = ignore_progress,
) -> CriticalSearch:
    """Search for the scalars of a model that matter, wherever they are; see the head of this file.

    Args:
        checkpoint: The model; bit-identical afterwards.
        text: What effects are measured on. Of a policy's text the windows are cut short, unless it names their
            length. Without one the model writes its own, by chance.
        location: Where its super weights are; located if not given.
        policy: How many candidates, and what counts.
        name: What the text is called.
        confidence: Of all intervals together.
        minimum_windows: With fewer windows there is no interval.
        most_tokens: Of the text so many tokens are used at most, for what may matter; `None` for all.
        seed: Of the text that the model writes.
        progress: Told where the work stands.

    Raises:
        InputError: If the text cannot be used, or the model has no finite loss on it.
    """
    policy = policy or CriticalPolicy()
    location = location or locate_super_weights(checkpoint)
    windows, called = cut_text(checkpoint, text, location, seed)
    search = _Search(checkpoint, windows, location, policy, confidence, minimum_windows, progress, most_tokens)
    return search.run(name or called, own_text=text is None)


def search_by_policy(
    checkpoint: Checkpoint,
    text: CorpusPolicy | Windows | None,
    location: Location,
    policy: Policy,
    *,
    name: str | None = None,
    in_audit: bool = True,
    progress: Progress = ignore_progress,
) -> tuple[Location, CriticalSearch]:
    """Search as a policy asks for it, in an audit among fewer scalars and on less text.

    Returns:
        The location with what its super weights bear, and the search.
    """
    critical = policy.critical
    most_tokens: int | None = MOST_TOKENS_IN_AUDIT if in_audit else MOST_TOKENS
    if policy.effort == "thorough":
        most_tokens = None
    elif in_audit and critical.candidates is None:
        critical = critical.model_copy(update={"candidates": CANDIDATES_IN_AUDIT})
    search = find_critical_scalars(
        checkpoint,
        text,
        location,
        critical,
        name=name,
        confidence=policy.confidence,
        minimum_windows=policy.minimum_windows,
        most_tokens=most_tokens,
        seed=policy.seed,
        progress=progress,
    )
    return confirm_location(location, search), search


def confirm_location(location: Location, search: CriticalSearch) -> Location:
    """Return a location that tells of each super weight whether it is bearing or inert, after a search."""
    weights = tuple(
        weight.model_copy(update={"impact": search.impacts.get(str(weight.address.scalar), weight.impact)})
        for weight in location.super_weights
    )
    return location.model_copy(update={"super_weights": weights})


def cut_text(
    checkpoint: Checkpoint, text: CorpusPolicy | Windows | None, location: Location, seed: int
) -> tuple[Windows, str]:
    """Cut a text into windows, short ones unless a policy names their length; return them and its name."""
    if text is None:
        return write_own_text(checkpoint, location, seed), "the model's own text"
    if isinstance(text, Windows):
        return text, "the text"
    read = read_corpus(text)
    limit, short = checkpoint.maximum_positions, text.window is None
    cut = window_corpus(read, checkpoint.tokenizer, text, limit, checkpoint.start.bos, short=short)
    return cut, read.identity.name


@torch.no_grad()
def write_own_text(checkpoint: Checkpoint, location: Location, seed: int = 0) -> Windows:
    """Let a model write a text by chance, from its own predictions; the same with the same seed.

    Each sequence begins with BOS if texts do, else with the first token of the locating prompt.
    """
    first = [*checkpoint.start.lead] or list(location.token_ids[:1])
    length = min(_OWN_LENGTH, checkpoint.maximum_positions or _OWN_LENGTH)
    begun = torch.tensor([first] * _OWN_ROWS, device=checkpoint.device)
    new = max(1, length - len(first))
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True, top_k=0, max_new_tokens=new, min_new_tokens=new, pad_token_id=0, bos_token_id=None
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rows = checkpoint.model.generate(begun, attention_mask=torch.ones_like(begun), generation_config=settings)
    scored = torch.full((len(rows),), len(first), dtype=torch.long)
    return Windows(rows.cpu(), scored, bos=checkpoint.start.bos)


class _Search:
    def __init__(
        self,
        checkpoint: Checkpoint,
        windows: Windows,
        location: Location,
        policy: CriticalPolicy,
        confidence: float,
        minimum_windows: int,
        progress: Progress,
        most_tokens: int | None,
    ) -> None:
        self.checkpoint, self.location, self.policy = checkpoint, location, policy
        self.parameters = name_parameters(checkpoint)
        self.progress, self.minimum = progress, minimum_windows
        count, length = windows.token_ids.shape
        looks = plan_looks(count, length, 0, minimum_windows)
        kept = [look for look in looks if most_tokens is None or look.windows * length <= most_tokens]
        self.looks: Sequence[Look] = kept or looks[:1]
        self.trials = Trials(checkpoint, windows)
        self.confidence = confidence
        self.worth = math.log(policy.minimum_ratio)
        self.notes: list[str] = []
        self.scalars: dict[ScalarAddress, Tried] = {}
        self.kinds: dict[Tried, CriticalKind] = {}
        self.sets: list[CriticalSet] = []
        self.set_of: dict[Tried, int] = {}
        self.impacts: dict[str, Impact] = {}
        self.own_text = False

    def run(self, name: str, *, own_text: bool) -> CriticalSearch:
        self.own_text = own_text
        ranking = self._list_candidates()
        candidates = list(self.scalars.values())
        self.each = 1 - (1 - self.confidence) / max(1, len(candidates) * len(self.looks))
        self._try_alone(candidates)
        located = [scalar for scalar in candidates if scalar.located]
        if located:
            self._take_apart(located, candidates)
        self._try_channels(candidates)
        alone = [scalar for scalar, kind in self.kinds.items() if kind == "alone"]
        alone = sorted(alone, key=lambda scalar: -self.trials.cost(_alone(scalar)))[:COSTLIEST]
        more = [one for one in self.policy.interventions if one != "zero"]
        trials = [
            frozenset({(scalar, one)})
            for scalar in alone
            for one in more
            if one != "one" or scalar.parameter.is_gain
        ]
        self._measure(trials, "trying other values")
        tied = {scalar.parameter.name: scalar.parameter.names for scalar in candidates if scalar.parameter.names}
        for first, names in tied.items():
            self.notes.append(f"{first} is {', '.join(names)} as well: its scalars are zeroed in both uses.")
        windows = self.trials.windows.token_ids
        return CriticalSearch(
            text=name,
            own_text=own_text,
            window=windows.shape[1],
            windows=self.looks[-1].windows,
            minimum_ratio=self.policy.minimum_ratio,
            confidence=self.confidence,
            ranked=0 if ranking is None else ranking.ranked,
            candidates=len(candidates),
            questions=self.trials.questions,
            tokens=self.trials.tokens,
            scalars=tuple(sorted(self._list_scalars(more), key=_order)),
            sets=tuple(self.sets),
            lead=self._compare_costliest(candidates),
            impacts=self.impacts,
            notes=tuple(self.notes),
        )

    def _measure(self, trials: Iterable[Trial], stage: str, look: int = 0) -> None:
        self.trials.progress = tell_stage(self.progress, stage)
        self.trials.measure(trials, self.looks[look].windows)

    # Candidates

    def _list_candidates(self) -> Ranking | None:
        """Note the candidates: what the locator named, the largest products, the highest by the gradient."""
        wanted = self.policy.candidates or CANDIDATES
        size = sum({id(one): one.size for one in self.parameters.values()}.values())
        if wanted > size:
            self.notes.append(f"{wanted:,} candidates were asked for; the model has {size:,} scalars.")
        products = max(16, wanted // 4)
        windows = self.trials.windows.part(0, self.looks[-1].windows)
        rankings: list[Ranking] = []
        try:
            for length, count in PIECES:
                rankings.append(
                    rank_scalars(
                        self.checkpoint,
                        cut_pieces(windows, length, count),
                        products=0 if rankings else products,
                        own_predictions=self.own_text,
                        progress=tell_stage(self.progress, "ranking scalars"),
                    )
                )
        except NoGradientError as error:
            self.notes.append(
                f"No gradient can be taken ({error}): candidates are what the locator named; search in the parent."
            )
        by_gradient = _merge(rankings)
        ranks = {(one.parameter.name, one.index): place for place, one in enumerate(by_gradient, 1)}
        ranking = rankings[0] if rankings else None
        if ranking is not None and ranking.unreached:
            names, more = ", ".join(ranking.unreached[:3]), len(ranking.unreached) - 3
            rest = f" and {more} more" if more > 0 else ""
            self.notes.append(f"No gradient reaches {names}{rest}: their scalars are no candidates by rank.")
        located = set(self.location.addresses)
        for address in self._list_named():
            if (parameter := self.parameters.get(address.parameter)) is not None:
                index = address.scalar.index
                self._note(Tried(parameter, index, parameter.read(index), located=address in located), ranks)
        if ranking is not None:
            for one in [*ranking.by_product, *ranking.feeding, *by_gradient[:wanted]]:
                self._note(Tried(one.parameter, one.index, one.value), ranks)
        return ranking

    def _list_named(self) -> Iterator[WeightAddress]:
        """Yield what the locator named: the set, what single prompts show, earlier stages' causes, candidates."""
        location = self.location
        yield from location.addresses
        for prompt in (*location.prompts, *location.other_start):
            yield from prompt.addresses
        for stage in location.earlier_stages:
            yield from (cause.address for cause in stage.causes)
        channels = {activation.channel for activation in location.super_activations}
        for entry in location.candidates:
            if entry.row in channels:
                yield WeightAddress(
                    parameter=entry.parameter, row=entry.row, column=entry.column, expert=entry.expert
                )

    def _note(self, scalar: Tried, ranks: Mapping[tuple[str, tuple[int, ...]], int]) -> None:
        # What is zero already cannot be zeroed.
        if scalar.value + scalar.parameter.offset:
            rank = ranks.get((scalar.parameter.name, scalar.index))
            self.scalars.setdefault(scalar.address, replace(scalar, rank=rank))

    def _compare_costliest(self, candidates: Sequence[Tried]) -> Effect | None:
        tried = [_alone(scalar) for scalar in candidates if self.trials.count_windows(_alone(scalar))]
        located = {_alone(scalar) for scalar in candidates if scalar.located}
        sides = [[trial for trial in tried if (trial in located) == side] for side in (False, True)]
        if not all(sides):
            return None
        other, own = (max(side, key=self.trials.cost) for side in sides)
        for look in range(len(self.looks)):
            self._measure([other, own], "comparing the costliest", look)
            effect = self._effect(other, own)
            if (effect.low is not None and effect.low > 1) or (effect.high is not None and effect.high < 1):
                break
        return effect

    # Scalars alone

    def _try_alone(self, candidates: Sequence[Tried]) -> None:
        singles = [scalar for scalar in candidates if self._is_single(scalar)]
        rest = [scalar for scalar in candidates if not self._is_single(scalar)]
        groups = list(self._group(rest))
        self._measure([*map(_alone, singles), *map(zeroing, groups)], "trying scalars and groups")
        self._split([group for group in groups if len(group) > 1])
        tried = [scalar for scalar in candidates if self.trials.count_windows(_alone(scalar))]
        open_ones = [scalar for scalar in tried if self.trials.cost(_alone(scalar)) >= self.worth / 2]
        for look in range(1, len(self.looks)):
            open_ones = [scalar for scalar in open_ones if self._is_open(self._effect(_alone(scalar)))]
            stage = f"trying scalars, step {look + 1} of at most {len(self.looks)}"
            self._measure(map(_alone, open_ones), stage, look)
        for scalar in tried:
            if self.trials.cost(_alone(scalar)) >= self.worth:
                self.kinds[scalar] = "alone"

    def _split(self, groups: Iterable[Sequence[Tried]]) -> None:
        """Find by halving which members of groups make these cost as much as counts.

        Of two halves one is measured; the other is taken to cost the rest, and is looked into if that is half of
        what counts.
        """
        costs = [(group, self.trials.cost(zeroing(group))) for group in groups]
        open_groups = [(group, cost) for group, cost in costs if not cost < self.worth]
        alone: list[Tried] = []
        while open_groups:
            halves = [(group[: len(group) // 2], group[len(group) // 2 :]) for group, _ in open_groups]
            self._measure((zeroing(first) for first, _ in halves), "taking groups apart")
            parts: list[tuple[Sequence[Tried], float]] = []
            for (first, second), (_, cost) in zip(halves, open_groups, strict=True):
                own = self.trials.cost(zeroing(first))
                parts += [(first, own), (second, cost - own if math.isfinite(cost) else math.inf)]
            parts = [part for part in parts if not abs(part[1]) < self.worth / 2]
            alone += [scalar for members, _ in parts if len(members) == 1 for scalar in members]
            open_groups = [part for part in parts if len(part[0]) > 1]
        self._measure(map(_alone, alone), "taking groups apart")

    def _is_single(self, scalar: Tried) -> bool:
        likely = scalar.rank is not None and scalar.rank <= SINGLES
        return scalar.located or likely or self._share_of_layers(scalar) <= CHEAP

    def _share_of_layers(self, scalar: Tried) -> float:
        """Return which part of the layers has to be run for it: all, unless it is in a later one or after them."""
        layers = len(self.checkpoint.layers)
        if scalar.parameter.layer is not None:
            return 1 - scalar.parameter.layer / layers
        return 0.0 if len(scalar.parameter.shape) == 1 else 1.0

    def _group(self, scalars: Sequence[Tried]) -> Iterator[list[Tried]]:
        """Cut scalars into groups of which no two members share a channel, neighbours in depth together."""
        ranked = [scalar for scalar in scalars if scalar.rank is not None]
        unranked = [scalar for scalar in scalars if scalar.rank is None]
        for some, size in ((ranked, GROUP), (unranked, 2 * GROUP)):
            yield from self._group_apart(some, size)

    def _group_apart(self, scalars: Sequence[Tried], size: int) -> Iterator[list[Tried]]:
        open_groups: list[tuple[list[Tried], set[int]]] = []
        for scalar in sorted(scalars, key=lambda one: -1 if one.parameter.layer is None else one.parameter.layer):
            channels = self._list_channels(scalar)
            group, taken = next(
                (one for one in open_groups if not one[1].intersection(channels)), ([], set[int]())
            )
            if not group:
                open_groups.append((group, taken))
            group.append(scalar)
            taken.update(channels)
            if len(group) == size:
                open_groups = [one for one in open_groups if one[0] is not group]
                yield group
        yield from (group for group, _ in open_groups)

    def _list_channels(self, scalar: Tried) -> tuple[int, ...]:
        return scalar.parameter.list_channels(scalar.index, self.checkpoint.identity.hidden_size)

    def _effect(self, trial: Trial, against: Trial = NOTHING) -> Effect:
        return self.trials.effect(trial, self.each, against, self.minimum)

    def _is_open(self, effect: Effect) -> bool:
        if effect.ratio is None:
            return False
        if effect.low is None or effect.high is None:
            return True
        return effect.low < self.policy.minimum_ratio <= effect.high

    # The located set

    def _take_apart(self, located: Sequence[Tried], candidates: Sequence[Tried]) -> None:
        """Say which of the located scalars anything depends on, and what masks or completes the set."""
        whole = zeroing(located)
        needed = self._list_needed([located], "taking the located set apart")[0]
        damage = self.trials.cost(whole)
        self.sets.append(_make_set("located", located, self._effect(whole)))
        for scalar in located:
            bearing = self.kinds.get(scalar) == "alone" or (damage >= self.worth and scalar in needed)
            self.impacts[str(scalar.address)] = "bearing" if bearing else "inert"
            if bearing:
                self.kinds.setdefault(scalar, "together")
                self.set_of[scalar] = 0
        if damage < self.worth:
            channels = ", ".join(str(one.channel) for one in self.location.super_activations)
            self.notes.append(
                f"Nothing depends on the super activation in channel {channels}: with all located scalars zeroed "
                f"the perplexity is {math.exp(damage):.4g} times as high."
            )
        elif math.isfinite(damage):
            self._try_beside(located, candidates)

    def _list_needed(self, sets: Sequence[Sequence[Tried]], stage: str) -> list[list[Tried]]:
        """List of each set the members without which zeroing it costs notably less."""
        without = [
            {scalar: zeroing(one for one in members if one is not scalar) for scalar in members}
            for members in sets
        ]
        left = [trial for trials in without for trial in trials.values() if trial]
        self._measure([*map(zeroing, sets), *left], stage)
        needed = []
        for members, trials in zip(sets, without, strict=True):
            damage = self.trials.cost(zeroing(members))
            least = self._find_least(damage)
            needed.append([scalar for scalar in members if not damage - self.trials.cost(trials[scalar]) < least])
        return needed

    def _find_least(self, damage: float) -> float:
        """Return how many nats more or less count beside a damage."""
        return max(self.worth, _NOTABLE * damage) if math.isfinite(damage) else self.worth

    def _try_beside(self, located: Sequence[Tried], candidates: Sequence[Tried]) -> None:
        """With the located set zeroed, find what makes its damage smaller or larger."""
        whole = zeroing(located)
        least = self._find_least(self.trials.cost(whole))
        hidden = self.checkpoint.identity.hidden_size
        channels = {channel for scalar in located if (channel := _written(scalar, hidden)) is not None}
        others = [
            scalar
            for scalar in candidates
            if not scalar.located
            and (
                _written(scalar, hidden) in channels or (scalar.parameter.is_gain and scalar.index[0] in channels)
            )
        ]
        rest = [scalar for scalar in others if scalar not in self.kinds]
        groups = [rest[first : first + 2 * GROUP] for first in range(0, len(rest), 2 * GROUP)]
        suspects = [scalar for scalar in others if scalar in self.kinds]
        self._measure(
            [whole | trial for trial in (*map(zeroing, groups), *map(_alone, suspects))], "trying what masks"
        )
        for group in groups:
            if not abs(self.trials.cost(whole | zeroing(group), whole)) < least:
                suspects += group
        self._measure([whole | _alone(scalar) for scalar in suspects], "trying what masks")
        for scalar in suspects:
            beside = whole | _alone(scalar)
            more = self.trials.cost(beside, whole)
            if more <= -least:
                self._note_set("masks", [scalar], self._effect(beside, whole))
        completing = [
            scalar
            for scalar in suspects
            if scalar not in self.kinds and self.trials.cost(whole | _alone(scalar), whole) >= least
        ]
        if completing:
            self._complete([*located, *completing])

    def _complete(self, members: Sequence[Tried]) -> None:
        """Say which scalars of a set that was found to be larger than the located one are needed in it."""
        [needed] = self._list_needed([members], "taking the larger set apart")
        if all(scalar.located for scalar in needed):
            return
        self.impacts |= {str(scalar.address): "bearing" for scalar in needed if scalar.located}
        self._measure([zeroing(needed)], "taking the larger set apart")
        self._note_set("together", needed, self._effect(zeroing(needed)))

    def _note_set(self, kind: CriticalKind, members: Sequence[Tried], effect: Effect) -> None:
        self.sets.append(_make_set(kind, members, effect))
        for scalar in members:
            self.kinds.setdefault(scalar, kind)
            self.set_of.setdefault(scalar, len(self.sets) - 1)

    # Sets of one channel

    def _try_channels(self, candidates: Sequence[Tried]) -> None:
        """Find sets that matter only together: of what writes into one channel, and does not matter alone."""
        hidden = self.checkpoint.identity.hidden_size
        writers: defaultdict[int, list[Tried]] = defaultdict(list)
        for scalar in candidates:
            if (
                scalar not in self.kinds
                and not scalar.located
                and (channel := _written(scalar, hidden)) is not None
            ):
                writers[channel].append(scalar)
        several = {channel: members[:_MOST_WRITERS] for channel, members in writers.items() if len(members) > 1}
        self._measure(map(zeroing, several.values()), "trying channels")
        costly = [members for members in several.values() if self.trials.cost(zeroing(members)) >= self.worth]
        needed = self._list_needed(costly, "taking channels apart")
        sets = [members for members in needed if len(members) > 1]
        last = min(1, len(self.looks) - 1)
        trials = [*map(zeroing, sets), *(_alone(scalar) for members in sets for scalar in members)]
        self._measure(trials, "trying sets", last)
        for members in sets:
            apart = sum(max(0.0, self.trials.cost(_alone(scalar))) for scalar in members)
            if self.trials.cost(zeroing(members)) >= apart + self.worth:
                self._note_set("together", members, self._effect(zeroing(members)))

    # What is told

    def _list_scalars(self, more: Collection[Intervention]) -> Iterator[CriticalScalar]:
        for address, scalar in self.scalars.items():
            alone = _alone(scalar)
            tried = self.trials.count_windows(alone) > 0
            if not tried and scalar not in self.kinds:
                continue
            others = {
                one: self._effect(trial)
                for one in more
                if self.trials.count_windows(trial := frozenset({(scalar, one)}))
            }
            parameter = scalar.parameter
            yield CriticalScalar(
                address=address,
                value=scalar.value,
                applied=scalar.value + parameter.offset if parameter.offset else None,
                layer=parameter.layer,
                size=parameter.size,
                rank=scalar.rank,
                located=scalar.located,
                kind=self.kinds.get(scalar),
                effect=self._effect(alone) if tried else None,
                others=others,
                set=self.set_of.get(scalar),
            )


def _merge(rankings: Sequence[Ranking]) -> list[Scored]:
    """Merge rankings: what one of them puts first comes before what all put second."""
    places: dict[tuple[str, tuple[int, ...]], tuple[int, Scored]] = {}
    for ranking in rankings:
        for place, one in enumerate(ranking.by_gradient):
            key = (one.parameter.name, one.index)
            if key not in places or place < places[key][0]:
                places[key] = (place, one)
    return [one for _, one in sorted(places.values(), key=lambda pair: pair[0])]


def _alone(scalar: Tried) -> Trial:
    return zeroing([scalar])


def _written(scalar: Tried, hidden: int) -> int | None:
    """Return the channel that a scalar of a layer adds something to; `None` if it reads or scales."""
    shape, index, parameter = scalar.parameter.shape, scalar.index, scalar.parameter
    if parameter.is_gain or parameter.layer is None:
        return None
    if len(shape) == 1:
        return index[0] if shape[0] == hidden else None
    return index[-2] if shape[-2] == hidden else None


def _make_set(kind: str, members: Sequence[Tried], effect: Effect) -> CriticalSet:
    return CriticalSet.model_validate(
        {"kind": kind, "members": [scalar.address for scalar in members], "effect": effect}
    )


def _order(scalar: CriticalScalar) -> float:
    if scalar.effect is None:
        return 0.0
    return -math.inf if scalar.effect.ratio is None else -scalar.effect.ratio
