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
    waiver: Waiver | None = None


def worst_status(statuses: Iterable[Status]) -> Status:
    """Combine statuses: any FAIL fails, else any INCONCLUSIVE, else any PASS, else SKIPPED."""
    present = set(statuses)
    order = (Status.FAIL, Status.INCONCLUSIVE, Status.PASS)
    return next((status for status in order if status in present), Status.SKIPPED)
