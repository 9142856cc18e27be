"""How long work tells where it stands."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with what is being done, how many steps are done, and how many there are."""

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """Take note.

        It is called between layers and batches, where the live model is as it was. It may raise to end the work
        there, as the one of `sw_audit.stopping.Stopper.watch` does.
        """


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Take no note."""
