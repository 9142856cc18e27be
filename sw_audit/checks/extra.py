"""Checks of other packages, attached by the entry-point group `sw_audit.checks`.

An entry point names an `ExtraCheck`. It is judged like a built-in check: from the evidence and the policy alone.

    [project.entry-points."sw_audit.checks"]
    outliers-agree = "my_package.checks:OUTLIERS_AGREE"
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points

from sw_audit.checks.info import CHECKS, CheckInfo
from sw_audit.errors import PolicyError
from sw_audit.policy.policy import Policy
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Verdict

GROUP = "sw_audit.checks"


@dataclass(frozen=True)
class ExtraCheck:
    """A check that another package brings.

    Attributes:
        info: Its id and words. With `needs_super_weight` it is skipped where none was located.
        rule: Pure: the same evidence and policy give the same verdict, whose `check` is `info.id` and whose
            `model` is the evidence's.
    """

    info: CheckInfo
    rule: Callable[[ModelResult, Policy], Verdict]


def find_extra_checks() -> tuple[ExtraCheck, ...]:
    """Return the checks that installed packages bring, by id.

    Raises:
        PolicyError: If an entry point cannot be loaded, names no `ExtraCheck`, or its id is taken.
    """
    found = []
    for point in entry_points(group=GROUP):
        asked = f"extra check {point.name!r} ({point.value})"
        try:
            loaded = point.load()
        except Exception as error:
            raise PolicyError(asked, f"cannot be loaded: {error}", "repair or uninstall the package") from error
        if not isinstance(loaded, ExtraCheck):
            raise PolicyError(asked, f"is a {type(loaded).__name__}", "let it name an ExtraCheck")
        found.append(loaded)
    taken = Counter([*(check.id for check in CHECKS), *(check.info.id for check in found)])
    for check in found:
        if taken[check.info.id] > 1:
            raise PolicyError(
                f"extra check {check.info.id!r}", "this id is taken", "give the check an id of its own"
            )
    return tuple(sorted(found, key=lambda check: check.info.id))
