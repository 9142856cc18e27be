"""A waiver: a failing check that somebody answers for, until a day."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import Field

from sw_audit.fact import Fact

Words = Annotated[str, Field(min_length=1)]


class Waiver(Fact):
    """A verdict that may be other than PASS until a day, and who says so.

    Attributes:
        check: Id of the check.
        model: Id of the model, or `*` for all.
        until: The last day on which it holds.
        owner: Who answers for it.
        reason: Why.
    """

    check: Words
    model: Words
    until: date
    owner: Words
    reason: Words

    def covers(self, check: str, model: str) -> bool:
        """Tell whether it is about a check on a model, expired or not."""
        return self.check == check and self.model in ("*", model)

    def __str__(self) -> str:
        """Write it as what it is told by, such as `until 2027-03-31 by Ada: the old kernel goes away then`."""
        return f"until {self.until.isoformat()} by {self.owner}: {self.reason}"
