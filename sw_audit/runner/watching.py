"""The files that an audit rests on, looked at before and after it: a model that changed meanwhile passes nothing.

What the cache keeps is named by what the files held before the audit, and the audit reads them again and again
after that. Reading everything once more to see that it is the same would cost as much as opening the model, so the
file system is asked. A file is another one as soon as its state differs, also where its content has come back:
what was read in between is not known. A file whose state alone proves nothing (`FileState.is_settled`) is digested
before and after besides. Files are looked at once a second while the work goes on, so that a change ends it early,
and one that is undone before the end is seen too.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from sw_audit.checkpoint.digest import FileState, digest_paths, read_state
from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.errors import AuditError
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.printable import printable
from sw_audit.progress import Progress
from sw_audit.record.store import find_baseline_file
from sw_audit.stopping import StoppedError

_EVERY = 1.0
"""Seconds between two looks while the work goes on."""

States: TypeAlias = Mapping[Path, FileState | None]
"""How files are; `None` for one that cannot be read."""


class WatchedFiles:
    """The files of one audit: of the model, its adapter's base, its parent, the text, the index, the baseline.

    A model that is audited in place has none of its own.

    Attributes:
        parent: The state of the parent's files, in one word.
        change: What changed, as a clause; `None` as long as nothing did.
    """

    def __init__(self, policy: Policy, model: ModelPolicy, *, in_place: bool = False) -> None:
        parent = policy.find_parent(model)
        merged = model.adapter and ModelPolicy(source=model.adapter)
        models = (parent,) if in_place else (parent, model, merged)
        self._lists = [_watch_model(one) for one in models if one]
        self._lists.append(lambda: _list_others(policy, model))
        self.parent = _describe(_look(self._lists[0]())) if parent else ""
        self.change: str | None = None
        self._looked = time.monotonic()
        self._states = self._look()
        now = time.time_ns()
        unsettled = (path for path, state in self._states.items() if state and not state.is_settled(now))
        self._unsettled = {path: _digest(path) for path in unsettled}

    @property
    def seen(self) -> str:
        """The state of all files before the audit, in one word."""
        return _describe(self._states)

    def find_change(self) -> str | None:
        """Look at all files again, and return what changed since the first look; `None` if nothing did."""
        self._compare()
        changed = (path for path, digest in self._unsettled.items() if _digest(path) != digest)
        if self.change is None and (path := next(changed, None)) is not None:
            self._note(path)
        return self.change

    def watch(self, progress: Progress) -> Progress:
        """Return a progress that ends the work, by a StoppedError, when it is called after a change."""

        def tell(stage: str, done: int, total: int) -> None:
            if time.monotonic() - self._looked >= _EVERY:
                self._compare()
            if self.change is not None:
                raise StoppedError(self.change)
            progress(stage, done, total)

        return tell

    def _look(self) -> States:
        return _look(path for paths in self._lists for path in paths())

    def _compare(self) -> None:
        states, self._looked = self._look(), time.monotonic()
        paths = [path for path in {**self._states, **states} if _differs(self._states.get(path), states.get(path))]
        if paths and self.change is None:
            self._note(paths[0])

    def _note(self, path: Path) -> None:
        self.change = f"{printable(str(path))} changed while it was audited"


def look_at_model(model: ModelPolicy) -> str:
    """Return the state of a model's files, and of its base's, in one word."""
    return _describe(_look(_watch_model(model)()))


def list_places(policy: Policy, model: ModelPolicy) -> list[Path]:
    """List the folders and files here that the audit of a model is given; what a hub has is not among them."""
    models = [one for one in (model, policy.find_parent(model)) if one is not None]
    named = [word for one in models for word in (one.source, one.base, one.adapter) if word]
    found = [path.resolve() for path in (Path(word).expanduser() for word in named) if path.exists()]
    return [*found, *_list_others(policy, model)]


def find_folders(model: ModelPolicy) -> list[CheckpointFolder]:
    """Find the folder of a model, and those of an adapter's base models; CheckpointError if one is not there."""
    folder = CheckpointFolder.require(model)
    base = folder.format.find_base(folder)
    return [folder, *([] if base is None else find_folders(base))]


def _watch_model(model: ModelPolicy) -> Callable[[], list[Path]]:
    """Return what lists the files of a model; nothing where it is not there, which measuring will complain of."""
    try:
        folders = find_folders(model)
    except (AuditError, OSError):
        folders = []

    def list_files() -> Iterator[Path]:
        for folder in folders:
            again = CheckpointFolder(folder.path, folder.policy, folder.file)
            yield from (*again.contents, *again.templates)

    def list_them() -> list[Path]:
        try:
            return [path.resolve() for path in list_files()]
        except OSError:
            return []

    return list_them


def _list_others(policy: Policy, model: ModelPolicy) -> list[Path]:
    descends = policy.find_parent(model) is not None
    texts = (policy.corpus, *(policy.descent.texts if descends else ()))
    named = [word for text in texts for word in (text.source, text.choices)]
    named += [policy.index, model.manifest, policy.descent.decisions if descends else None]
    paths = [Path(word).expanduser() for word in named if word]
    if policy.compare is not None:
        paths.append(find_baseline_file(policy.compare))
    if descends and policy.descent.lm_eval_path:
        paths += sorted(Path(policy.descent.lm_eval_path).expanduser().rglob("*"))
    return [path.resolve() for path in paths if path.is_file() and "__pycache__" not in path.parts]


def _look(paths: Iterable[Path]) -> States:
    return {path: _read(path) for path in paths}


def _read(path: Path) -> FileState | None:
    try:
        return read_state(path)
    except OSError:
        return None


def _differs(before: FileState | None, now: FileState | None) -> bool:
    return before != now and (before is None or now is None or not now.holds_what(before))


def _digest(path: Path) -> str | None:
    try:
        return digest_paths([path], path.parent)[0].sha256
    except AuditError:
        return None


def _describe(states: States) -> str:
    told = sorted((str(path), *(state or ())) for path, state in states.items())
    return hashlib.sha256(repr(told).encode("utf-8", "surrogateescape")).hexdigest()
