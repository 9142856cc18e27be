"""How long work tells where it stands, and how long it will still take."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from sw_audit.duration import write_duration


class Progress(Protocol):
    """Called with what is being done, how many steps are done, and how many there are."""

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """Take note.

        It is called between layers and batches, where the live model is as it was. It may raise to end the work
        there, as the one of `sw_audit.stopping.Stopper.watch` does.
        """


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Take no note."""


def tell_stage(progress: Progress, stage: str) -> Progress:
    """Return a progress that calls whatever is being done by one name."""
    return lambda _, done, total: progress(stage, done, total)


@dataclass
class Standing:
    """Where the work stands.

    Attributes:
        stage: What is being done; empty before the first stage.
        done: How many of its steps are done.
        total: How many there are.
    """

    stage: str = ""
    done: int = 0
    total: int = 0
    _begun: float = field(default=0.0, repr=False)
    _first: int = field(default=0, repr=False)

    def move(self, stage: str, done: int, total: int) -> bool:
        """Take note of a step; return whether a stage of another name begins with it."""
        another = stage != self.stage
        if another or done < self.done or total != self.total:
            self._begun, self._first = time.monotonic(), done
        self.stage, self.done, self.total = stage, done, total
        return another

    @property
    def left(self) -> float | None:
        """Seconds that the stage still takes if its steps go on as so far; `None` as long as none was seen."""
        seen = self.done - self._first
        return (time.monotonic() - self._begun) / seen * (self.total - self.done) if seen > 0 else None

    def tell(self) -> str:
        """Say how far the stage is, and how long it still takes."""
        return f"{self.stage}: {self.done} of {self.total}, {self.tell_left()}"

    def tell_left(self) -> str:
        """Say how long the stage still takes."""
        return "time left unknown" if self.left is None else f"about {write_duration(self.left)} left"
