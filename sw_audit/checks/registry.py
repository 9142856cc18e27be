"""Every check, found where it stands: a module of this package, or an entry point of another.

A check is one file of this package: its limits, the arms that it reads, and its rule, which `check` turns into the
object that everything else reads: the policy's schema, the plan, the terminal, JUnit and the report. Another
package adds a check by naming the same object in the entry-point group `sw_audit.checks`:

    [project.entry-points."sw_audit.checks"]
    outliers-agree = "my_package.checks:outliers_agree"
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import sw_audit.checks
from sw_audit.errors import PolicyError
from sw_audit.extras import load_extras

if TYPE_CHECKING:
    from sw_audit.checks.arms import ArmPlan, Draws
    from sw_audit.checks.limits import Limits
    from sw_audit.policy.model_policy import Level
    from sw_audit.policy.policy import Policy
    from sw_audit.record.arm import Arm
    from sw_audit.record.verdict import Side, Verdict

GROUP = "sw_audit.checks"
Scope = Literal["model", "descendant", "any", "baseline", "engine"]
"""What a check is about: a model alone, a model beside its parent, either of them (`any`), a model beside what was
once known of it, or a model in another program than transformers."""
Unit = Literal["ratio", "share", "count", "p-value", "nats", "decibels"]
Rule: TypeAlias = "Callable[[Any], Verdict]"
"""From a `CheckContext`, or of a static check from a `StaticContext`, to the verdict."""


class Need(Enum):
    """What must be found out about a model, besides its arms, before a check can judge it."""

    ACTIVATIONS = "whether and how its activations can be quantized"
    CHOICES = "answers to multiple-choice items"
    CRITICAL = "which of all its scalars matter"
    DECISIONS = "what it decides"
    EXPERTS = "its experts beside the parent's"
    GENERATION = "greedy continuations"
    KEYS = "how the channels of its keys compare"
    LENGTHS = "how long its answers to chat prompts are"
    LAYERS = "the error of each layer beside the parent's"
    SETTINGS = "its settings beside the parent's"
    SMOOTHING = "which alpha of SmoothQuant does best"
    MERGE = "whether the merge that is named gives its files"
    MECHANISM = "its super activations, followed block by block"
    PERSISTENCE = "its super activations on several prompts"
    ROUTING = "where its tokens are routed among its experts"
    PUBLISHED = "what the index of published coordinates says of it"
    TENSORS = "its tensors beside the parent's"
    TASKS = "answers to zero-shot tasks"


_INSIDE = frozenset(
    (Need.ACTIVATIONS, Need.CHOICES, Need.LAYERS, Need.MECHANISM, Need.ROUTING, Need.SMOOTHING, Need.TASKS)
)
"""What cannot be found out in an engine."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        id: Stable id.
        order: Where it stands among others.
        title: What it claims, a short sentence.
        meaning: What it means for somebody who ships the model.
        quantity: What is measured, in words.
        unit: In what.
        fails: When it fails by default, a clause.
        side: Which side of the limit is good.
        limits: The class of its limits.
        measured: Which of its limits decide what is measured, and not only how that is judged.
        level: Whether it is a gate or a law, unless the policy says otherwise.
        spread: Standard deviation of its figure between windows of 64 tokens, measured on a 4-bit descendant:
            of the logarithm of a ratio or a divergence, of a share as it is; what a text resolves rests on it.
        known: What the paper or others measured, with the source, of a law; shown beside what holds here.
        scope: What it is about, and so which models it runs on.
        needs: What must be found out besides arms.
        needs_super_weight: Whether it is skipped where no super weight was located.
        draws: Which scalars must be drawn before its arms can be planned, from the policy and the number of the
            decoder's weights.
        arms: The arms that it reads.
        static: Whether it is judged from files alone, also where the model was not opened; its rule is given a
            `StaticContext`.
        reads_files: Whether it asks files what no model in memory can answer; it is skipped for one that is
            audited in place.
        examine: Says what is wrong with its limits beside the rest of the policy; `None` if nothing is.
        rule: Pure: the same measurements and policy give the same verdict.
    """

    id: str
    order: int
    title: str
    meaning: str
    quantity: str
    fails: str
    limits: type[Limits]
    rule: Rule
    level: Level
    spread: float | None = None
    known: str = ""
    unit: Unit = "ratio"
    side: Side | None = None
    scope: Scope = "model"
    measured: frozenset[str] = frozenset()
    needs: frozenset[Need] = frozenset()
    needs_super_weight: bool = False
    draws: Callable[[Policy, int], Draws] | None = None
    arms: Callable[[ArmPlan], Iterable[Arm]] | None = None
    static: bool = False
    reads_files: bool = False
    examine: Callable[[Policy], str | None] | None = None

    @property
    def looks_inside(self) -> bool:
        """Whether something in the model must be changed or watched for it, which an engine does not allow.

        A descendant's critical scalars are searched for in its parent, which transformers has open.
        """
        searched = self.scope == "model" and Need.CRITICAL in self.needs
        return self.arms is not None or searched or not _INSIDE.isdisjoint(self.needs)

    def is_about(self, scope: Scope) -> bool:
        """Whether it runs on a model of that scope: alone (`model`), beside its parent, and so on."""
        return self.scope == scope or (self.scope == "any" and scope in ("model", "descendant"))


def check(**facts: Any) -> Callable[[Rule], Check]:
    """Make a check of the rule that stands below; see `Check` for what is said of it."""

    def decorate(rule: Rule) -> Check:
        return Check(rule=rule, **facts)

    return decorate


@cache
def find_checks() -> Mapping[str, Check]:
    """Return every check by its id: those of this package in their order, then those of other packages by id.

    Raises:
        PolicyError: If an entry point cannot be loaded, names no `Check`, or its id is taken.
    """
    modules = [
        import_module(f"{GROUP}.{module.name}") for module in pkgutil.iter_modules(sw_audit.checks.__path__)
    ]
    own = {value.id: value for module in modules for value in vars(module).values() if isinstance(value, Check)}
    checks = dict(sorted(own.items(), key=lambda item: item[1].order))
    extras = (loaded for _, loaded in load_extras(GROUP, Check, "extra check"))
    for extra in sorted(extras, key=lambda extra: extra.id):
        if checks.setdefault(extra.id, extra) is not extra:
            raise PolicyError(f"extra check {extra.id!r}", "this id is taken", "give the check an id of its own")
    return checks


def list_needs(checks: Iterable[str]) -> frozenset[Need]:
    """Return what some checks need to know besides arms, by their ids."""
    known = find_checks()
    return frozenset(need for name in checks if name in known for need in known[name].needs)
