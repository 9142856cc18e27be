"""How often the weights of a model are read that is read as it runs, stage by stage, told before it is.

A stage that calls the model on many texts lets all of them pass a layer while it is there. So what counts is how
often a stage has to begin again at the first layer, because it needs what came out of the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sw_audit.checkpoint.stored import Size, size_checkpoint
from sw_audit.checks.judging import list_measured
from sw_audit.checks.plan import plan_needs
from sw_audit.checks.registry import Need
from sw_audit.checks.super_activation_persists import SuperActivationPersistsLimits
from sw_audit.corpus.choices import read_choices
from sw_audit.corpus.looks import plan_looks
from sw_audit.corpus.text import SPECIMEN
from sw_audit.corpus.windows import MORE, SHORT
from sw_audit.measure.generation import count_longest
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.policy import CorpusPolicy, Policy
from sw_audit.runner.fitting import find_windows
from sw_audit.runner.text import settle_corpus
from sw_audit.specimen.shipped import find_shipped
from sw_audit.testing.counterexamples import AT_ONCE

_CRITICAL = 12
"""Twice forward and backward; then eight rounds of trials in a search that goes through all of its steps."""
_RECOVERY = 3
"""Every module held beside the parent's, parts put back alone, and parts put back together."""


@dataclass(frozen=True)
class Reading:
    """How often a stage reads all decoder layers.

    Attributes:
        stage: What is done, as progress names it.
        model: How often those of the model.
        parent: How often those of its parent.
        certain: Whether it is so often in any case. What is not ends earlier where verdicts are settled or texts
            end, or is left out.
        least: How often those of the model where one step of the text settles every verdict; `None` if as often.
    """

    stage: str
    model: int
    parent: int = 0
    certain: bool = True
    least: int | None = None

    @property
    def fewest(self) -> int:
        """How often the model's are read where one step of the text settles every verdict."""
        return self.model if self.least is None else self.least


def list_readings(policy: Policy, model: ModelPolicy) -> tuple[Reading, ...]:
    """List the stages of a model's audit with how often each reads the decoder layers; nothing is loaded.

    A super weight and a BOS token are taken for granted. A few layers more are read where super weights are.
    """
    local = model.model_copy(update={"source": find_shipped(model.source), "manifest": None})
    settled, size = settle_corpus(policy, local), size_checkpoint(local)
    list_stages = _list_alone if policy.find_parent(model) is None else _list_beside
    return tuple(list_stages(settled, list_measured(policy, model), size))


def _list_alone(policy: Policy, checks: Sequence[str], size: Size | None) -> Iterator[Reading]:
    needs = plan_needs(policy, checks, decoder_weights=1)
    examples = policy.checks[SuperActivationPersistsLimits].examples
    yield Reading("opening", 1)
    yield Reading("locating", 1)
    if Need.KEYS in needs:
        yield Reading("reading keys", 1)
    if Need.CRITICAL in needs:
        yield Reading("searching for critical scalars", _CRITICAL, certain=False)
    yield Reading("drawing controls", 1 + bool(needs.other_outliers))
    if Need.ACTIVATIONS in needs:
        yield Reading("preparing activations", 2)
    if Need.PERSISTENCE in needs:
        yield Reading("following super activations", 1 + math.ceil(examples / AT_ONCE))
    if Need.MECHANISM in needs:
        yield Reading("taking layers apart", 2)
    if Need.GENERATION in needs:
        yield Reading("generating", count_longest(policy.descent, size.positions if size else None), certain=False)
    items = len(read_choices(policy.corpus) or ()) if Need.CHOICES in needs else 0
    yield Reading("measuring", _count_looks(policy, policy.corpus, size, items), certain=False, least=1)


def _list_beside(policy: Policy, checks: Sequence[str], size: Size | None) -> Iterator[Reading]:
    needs, descent = plan_needs(policy, checks, decoder_weights=1), policy.descent
    yield Reading("opening", 1)
    yield Reading("locating", 1, 1)
    if Need.KEYS in needs:
        yield Reading("reading keys", 1)
    if Need.CRITICAL in needs:
        yield Reading("searching for critical scalars", 0, _CRITICAL, certain=False)
    longest = count_longest(descent, size.positions if size else None) if Need.GENERATION in needs else 0
    if Need.LENGTHS in needs and descent.answer_prompts:
        longest = max(longest, descent.answer_tokens)
    if longest:
        yield Reading("generating", longest, longest, certain=False)
    if Need.DECISIONS in needs and (descent.decisions or policy.corpus.source != SPECIMEN):
        yield Reading("reading decisions", 1, 1, certain=False)
    if descent.lm_eval and Need.TASKS in needs:
        yield Reading("answering", len(descent.lm_eval), len(descent.lm_eval), certain=False)
    yield Reading("following super activations", 2, 2)
    looks = [_count_looks(policy, text, size) for text in (policy.corpus, *descent.texts)]
    if policy.effort != "thorough":
        looks.append(_count_looks(policy, policy.corpus, size, short=False))
    yield Reading("measuring", sum(looks), sum(looks), certain=False, least=1 + len(descent.texts))
    if descent.modules or descent.layers:
        yield Reading("putting parts back", _RECOVERY, _RECOVERY, certain=False, least=0)


def _count_looks(
    policy: Policy, text: CorpusPolicy, size: Size | None, items: int = 0, *, short: bool = True
) -> int:
    """Count the steps in which a text is measured at most, in short windows or in those of full length."""
    if policy.effort == "thorough":
        return 1
    count, window = find_windows(text, size)
    if short:
        count, window = count * max(1, min(MORE, window // SHORT)), min(window, SHORT)
    return len(plan_looks(count, window, items, policy.minimum_windows))
