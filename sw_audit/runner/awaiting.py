"""A training run's checkpoints while they are written: which are whole, and since when nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sw_audit.checkpoint.series import SeriesMember, find_lack, list_series, look_at_member, order_series
from sw_audit.policy.model_policy import ModelPolicy

SETTLED = 3.0
"""Seconds without a change after which a checkpoint is looked into: longer than a trainer pauses between files."""
PATIENCE = 60.0
"""Seconds without a change after which one that is not whole is told of."""


@dataclass
class _Seen:
    """A checkpoint as it was seen last, since when, whether it was looked into, and what it lacks then."""

    member: SeriesMember
    since: float
    examined: bool = False
    lack: str | None = "it has only just changed"
    audited: bool = False


class AwaitedSeries:
    """The checkpoints in a folder, looked at again and again.

    Attributes:
        changed: When anything changed there last, on the clock of those who look.
    """

    def __init__(
        self,
        folder: Path,
        make_model: Callable[[Path], ModelPolicy],
        parent: str | None,
        tell: Callable[[str], None],
        now: float,
    ) -> None:
        self.changed = now
        self._folder, self._make_model, self._parent, self._tell = folder, make_model, parent, tell
        self._seen: dict[Path, _Seen] = {}
        self._audited: dict[Path, SeriesMember] = {}
        self._told: set[Path] = set()

    def look(self, now: float) -> list[Path]:
        """Return the checkpoints that are whole and not audited yet, in the order of the series.

        One that is deleted before it is audited is told of in a line, and so, once, is one that stays incomplete.
        One that changes after it was audited is audited again.

        Raises:
            CheckpointError: If the folder is gone, or cannot be read.
        """
        there = {member.path: member for member in list_series(self._folder, self._parent)}
        for path in [*(self._seen.keys() - there.keys())]:
            self._seen.pop(path)
            self.changed = now
            if path not in self._audited:
                self._tell(f"{path.name} was deleted before it was audited")
        for path, member in there.items():
            seen = self._seen.get(path)
            if seen is None or seen.member.state != member.state:
                self._seen[path] = _Seen(member, now)
                self.changed = now
            else:
                self._look_into(path, seen, now)
        ready = (seen.member for seen in self._seen.values() if seen.lack is None and not seen.audited)
        return [member.path for member in order_series(ready)]

    def _look_into(self, path: Path, seen: _Seen, now: float) -> None:
        # A trainer may gather its optimizer for long; beside a model that it saved alone nothing more comes.
        pause = PATIENCE if seen.member.awaits_trainer else SETTLED
        if not seen.examined and now - seen.since >= pause:
            seen.examined, seen.lack = True, find_lack(self._make_model(path))
        if seen.lack is not None and now - seen.since >= PATIENCE and path not in self._told:
            self._told.add(path)
            self._tell(f"{path.name} is not whole, and waits: {seen.lack}")

    def is_as_seen(self, path: Path) -> bool:
        """Tell whether a checkpoint is still as it was at the last look."""
        return look_at_member(path) == self._seen[path].member

    def finish(self, path: Path) -> None:
        """Take note that a checkpoint was audited."""
        self._seen[path].audited = True
        self._audited[path] = self._seen[path].member

    def wait_again(self, path: Path, now: float) -> None:
        """Wait for a checkpoint anew, which changed while it was audited, or was deleted: that is told."""
        seen = self._seen.pop(path)
        if path.is_dir():
            self._seen[path] = _Seen(seen.member, now)
        elif path not in self._audited:
            self._tell(f"{path.name} was deleted while it was audited")

    @property
    def settling(self) -> bool:
        """Whether a checkpoint has changed so lately that nobody knows yet whether it is whole."""
        return any(not seen.examined for seen in self._seen.values())

    @property
    def audited(self) -> list[Path]:
        """The checkpoints that were audited, also those that are gone, in the order of the series."""
        return [member.path for member in order_series(self._audited.values())]

    @property
    def lacking(self) -> dict[Path, str]:
        """The checkpoints that are not whole, with what they lack."""
        return {path: seen.lack for path, seen in self._seen.items() if seen.lack is not None}
