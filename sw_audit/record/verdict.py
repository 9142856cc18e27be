"""What a check concluded."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal

from pydantic import Field

from sw_audit.fact import Fact
from sw_audit.policy.model_policy import Level, Waiver


class Status(StrEnum):
    """PASS, FAIL and INCONCLUSIVE are verdicts; a check that does not apply is skipped with its reason."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    SKIPPED = "skipped"


Side = Literal["at least", "at most"]
"""Which side of a limit is good."""


Unit = Literal["windows", "items"]
"""What a figure with an interval is sampled over."""


class Sample(Fact):
    """What a figure with an interval was measured over.

    Attributes:
        count: So many windows of the text, or items.
        unit: Which of the two.
    """

    count: int
    unit: Unit = "windows"


class Evidence(Fact):
    """How much a verdict rests on.

    Attributes:
        count: Windows of the text, or items, behind the figure that decided.
        unit: Which of the two.
        tokens: How many tokens were scored in them; `None` of items.
        look: After which step of evidence the verdict was reached, counted from 1.
        looks: How many steps were planned, whose intervals hold together.
        needed: About how many windows or items in all would settle a doubt at the effect seen; `None` where that
            cannot be told, and where there is no doubt.
        arms: Names of the arms that the figure compares.
    """

    count: int
    unit: Unit = "windows"
    tokens: int | None = None
    look: int = 1
    looks: int = 1
    needed: int | None = None
    arms: tuple[str, ...] = ()


class Finding(Fact):
    """One figure held against one limit.

    Attributes:
        label: What was measured, such as an arm or a recipe.
        status: What follows from the figure.
        observed: The figure; `None` if missing or not finite.
        low: Lower end of its confidence interval.
        high: Upper end.
        limit: What it was held against; `None` if it is only reported.
        side: Which side of the limit is good, where that is not as in the verdict.
        arm: Name of the arm that was measured, if it was one.
        text: The text that it was measured on, where there are several.
        sample: What the figure was measured over; `None` where that is no sample.
        arms: Names of all arms that the figure compares.
        because: The reason, in words.
    """

    label: str
    status: Status
    observed: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    side: Side | None = None
    arm: str | None = None
    text: str | None = None
    sample: Sample | None = None
    arms: tuple[str, ...] = ()
    because: str


class Paste(Fact):
    """Advice that can be pasted.

    Attributes:
        where: What it is pasted into, such as `llm-compressor, in the recipe`.
        text: The line, or lines.
    """

    where: str
    text: str


class Verdict(Fact):
    """What one check concluded about one model.

    Attributes:
        check: Id of the check.
        model: Id of the model.
        status: The verdict; of a law PASS is "holds", FAIL "does not hold", INCONCLUSIVE "undecided".
        level: Whether it was judged as a gate or as a law.
        known: What the paper or others measured, with the source, of a law.
        observed: The figure that decided; `None` if missing or not finite.
        low: Lower end of its confidence interval.
        high: Upper end.
        limit: What it was held against.
        side: Which side of the limit is good.
        counts: What was counted, by what it is.
        arm: Name of the arm that the figure is about, if it is about one.
        quantity: What `observed` is and its unit, such as `perplexity ratio`.
        because: The reason, in words.
        remedy: What to do about a verdict that is not a pass.
        paste: The same as lines that can be pasted, where it comes down to such.
        coordinates: The scalars it is about.
        protocol: Signature of the protocol behind the figure, if it is one.
        findings: The single figures, where a check holds several.
        evidence: How much the figure rests on; `None` where it is no sample.
        waiver: Who answers for a verdict other than PASS, and until when; `None` if nobody does, or no longer.
    """

    check: str
    model: str
    status: Status
    level: Level = "gate"
    known: str = ""
    observed: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    side: Side | None = None
    counts: dict[str, int] = Field(default_factory=dict)
    arm: str | None = None
    quantity: str = ""
    because: str
    remedy: str | None = None
    paste: tuple[Paste, ...] = ()
    coordinates: tuple[str, ...] = ()
    protocol: str | None = None
    findings: tuple[Finding, ...] = ()
    evidence: Evidence | None = None
    waiver: Waiver | None = None

    @property
    def undecided(self) -> bool:
        """Whether more text or items may settle it."""
        return self.status is Status.INCONCLUSIVE and self.evidence is not None


def worst_status(statuses: Iterable[Status]) -> Status:
    """Combine statuses: any FAIL fails, else any INCONCLUSIVE, else any PASS, else SKIPPED."""
    present = set(statuses)
    order = (Status.FAIL, Status.INCONCLUSIVE, Status.PASS)
    return next((status for status in order if status in present), Status.SKIPPED)
