"""The cache: what was measured once is kept by what it rests on, and not measured again while that is the same.

An entry's name is the sha256 of its question: everything that decides the answer, weights and program included.
So nothing is ever out of date, two runs at once write the same bytes under the same name, and the folder can be
deleted at any time. An entry that is damaged counts as none.

The question says what the files held before they were measured. Until they have been looked at again the answers
of an audit lie apart (`StagedCache`), where only an audit finds them whose files are in the very same state.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from sw_audit.errors import OutputError
from sw_audit.leftovers import clear, list_abandoned, name_temporary
from sw_audit.progress import Progress
from sw_audit.record.arm import Arm, Purpose, QuantizeActivations, Smooth
from sw_audit.record.measurement import Look, Measurement
from sw_audit.record.store import check_writable, write_text

FOLDER = Path(".sw-audit", "cache")
"""Where the cache is by default, in the working folder."""

STAGED = "staged"
"""Subfolder of answers of audits whose files have not been looked at again yet."""

ARMS_AT_ONCE = 64
"""So many arms are measured before they are kept: each further pass measures the baseline once more."""

_PATIENCE = 1.0
"""Seconds between two looks at whether another process has answered."""
_FORM = 1
_MARKER = "Signature: 8a477f597d28d172789f06886806bc55\n# Measurements of sw-audit; this folder can be deleted.\n"

Question = Mapping[str, Any]
"""Everything that decides an answer, as plain JSON."""

_T = TypeVar("_T")


@dataclass
class Cache:
    """A folder of answers.

    Attributes:
        folder: Where they lie.
        trouble: Why nothing more is kept; one line.
        found: How many answers were found here, and how many were not.
        opened: When it was opened, in seconds since 1970.
    """

    folder: Path
    trouble: str | None = None
    found: list[bool] = field(default_factory=list)
    opened: float = field(default_factory=time.time)

    def find(self, kind: str, question: Question, form: type[_T]) -> _T | None:
        """Return the answer to a question, if it was kept and is whole.

        `kind` says what it is, such as `arm`, and is a subfolder; `form` is its type: a fact, or dataclasses and
        tuples of plain values and facts.
        """
        answer = _read(self.folder / _name(kind, question), form)
        self.found.append(answer is not None)
        return answer

    def keep(self, kind: str, question: Question, answer: Any, form: Any = None) -> None:
        """Keep an answer; a cache that cannot be written to says why in `trouble` and keeps nothing more."""
        self.write(self.folder / _name(kind, question), question, answer, form)

    def write(self, place: Path, question: Question, answer: Any, form: Any) -> None:
        """Write an entry somewhere in the folder; see `keep`."""
        if self.trouble is not None:
            return
        content = TypeAdapter(form or type(answer)).dump_python(answer, mode="json", by_alias=True)
        entry = {"form": _FORM, "question": question, "digest": _digest(content), "answer": content}
        try:
            check_writable(place.parent)
            if not (marker := self.folder / "CACHEDIR.TAG").exists():
                write_text(marker, _MARKER)
                write_text(self.folder / ".gitignore", "*\n")
            write_text(place, _canonical(entry))
        except OutputError as error:
            self.trouble = str(error)

    def copy(self, kind: str, question: Question) -> tuple[str, str] | None:
        """Return an entry for another cache (`adopt`), as its name and its text; `None` if there is none."""
        name = _name(kind, question)
        with suppress(OSError):
            return name.as_posix(), (self.folder / name).read_text(encoding="utf-8")
        return None

    def adopt(self, name: str, text: str) -> None:
        """Take an entry of another cache, unless there is one of its name."""
        place = self.folder / name
        if not place.exists():
            with suppress(OSError, OutputError):
                place.parent.mkdir(parents=True, exist_ok=True)
                write_text(place, text)

    def stage(self, seen: str, changed: Callable[[], object] = lambda: None) -> StagedCache:
        """Return the cache for one audit, all of whose files are in the state `seen`, in one word.

        `changed` looks at them again, and returns nothing as long as they are in that state.
        """
        return StagedCache(self, seen, changed)

    @contextmanager
    def answering(self, kind: str, question: Question, progress: Progress) -> Iterator[None]:
        """Let one process at a time answer a question, in the block; who waits tells progress.

        Where files cannot be locked nobody waits.
        """
        place = self.folder / _name(kind, question).with_suffix(".lock")
        lock = FileLock(place, fallback_to_soft=False)
        with suppress(OSError, NotImplementedError):
            place.parent.mkdir(parents=True, exist_ok=True)
            patience = 0.0
            while not lock.is_locked:
                with suppress(Timeout):
                    lock.acquire(timeout=patience)
                    break
                progress(f"waiting for the {kind}, which another process asks", 0, 1)
                patience = _PATIENCE
        try:
            yield
        finally:
            lock.release()


class StagedCache:
    """The cache as one audit adds to it: its answers lie apart until it is known that they are about its files.

    An audit that is killed leaves them there. They are found again by one whose files are in the same state, for
    then nothing changed from before the one until after the other, and it keeps them with its own.
    """

    def __init__(self, cache: Cache, seen: str, changed: Callable[[], object] = lambda: None) -> None:
        self._cache, apart = cache, cache.folder / STAGED
        self._changed = changed
        self._own = apart / f"{seen[:32]}{name_temporary()}"
        self._others = sorted(apart.glob(f"{seen[:32]}.*"))

    @property
    def trouble(self) -> str | None:
        """Why nothing more is kept; one line."""
        return self._cache.trouble

    def find(self, kind: str, question: Question, form: type[_T]) -> _T | None:
        """Return an answer that was kept for good, or for files in this state; see `Cache.find`."""
        name = _name(kind, question)
        answer = self._cache.find(kind, question, form)
        if answer is not None:
            return answer
        for folder in (self._own, *self._others):
            if (staged := _read(folder / name, form)) is not None:
                self._cache.found[-1] = True
                if folder != self._own:
                    self.keep(kind, question, staged, form)
                return staged
        return None

    def keep(self, kind: str, question: Question, answer: Any, form: Any = None) -> None:
        """Keep an answer until it is known what it is about; see `Cache.keep`."""
        self._cache.write(self._own / _name(kind, question), question, answer, form)

    def recall(self, kind: str, question: Question, form: Any, make: Callable[[], _T], progress: Progress) -> _T:
        """Return an answer that serves other audits too: one process makes it, and the others have it at once."""
        known: _T | None = self.find(kind, question, form)
        if known is not None:
            return known
        with self._cache.answering(kind, question, progress):
            known = self.find(kind, question, form)
            if known is None:
                known = make()
                self.keep(kind, question, known, form)
                if not self._changed():
                    self._move(self._own / _name(kind, question))
        return known

    def confirm(self) -> None:
        """Keep for good what was kept so far, and let go of what earlier audits of these files have left."""
        for entry in sorted(self._own.rglob("*.json")):
            self._move(entry)
        clear(list_abandoned(self._others))
        self.discard()

    def _move(self, entry: Path) -> None:
        place = self._cache.folder / entry.relative_to(self._own)
        # One that cannot be moved, or that another run has cleared meanwhile, is measured again.
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            entry.replace(place)

    def discard(self) -> None:
        """Let go of what was kept, for it may be about other files than the question says."""
        shutil.rmtree(self._own, ignore_errors=True)
        with suppress(OSError):
            self._own.parent.rmdir()


@dataclass(frozen=True)
class ArmCache:
    """The cache as one model's audit uses it, with what its figures rest on.

    Attributes:
        cache: Where answers lie; without one everything is measured.
        model: What all figures of the model rest on: its files, device, program, packages.
        text: What its figures on the text rest on besides their protocol: stop words, items, calibration text.
        parent: What is found out about its parent alone rests on; empty without one.
        result: What everything rests on that is found out about the model before its arms are measured.
        judged: The same, and what decides how much of the text is measured: limits, levels, confidence.
    """

    cache: Cache | StagedCache | None = None
    model: Question = field(default_factory=dict)
    text: Question = field(default_factory=dict)
    parent: Question = field(default_factory=dict)
    result: Question = field(default_factory=dict)
    judged: Question = field(default_factory=dict)

    def find(self, kind: str, question: Question, form: type[_T]) -> _T | None:
        """Return an answer that was kept; see `Cache.find`."""
        return None if self.cache is None else self.cache.find(kind, question, form)

    def keep(self, kind: str, question: Question, answer: Any, form: Any = None) -> None:
        """Keep an answer; see `Cache.keep`."""
        if self.cache is not None:
            self.cache.keep(kind, question, answer, form)

    def confirm(self) -> None:
        """Keep for good what was kept: it is about the files that its questions tell of."""
        if isinstance(self.cache, StagedCache):
            self.cache.confirm()

    def discard(self) -> None:
        """Let go of what was kept: its files changed meanwhile."""
        if isinstance(self.cache, StagedCache):
            self.cache.discard()

    def recall(self, kind: str, question: Question, form: Any, make: Callable[[], _T]) -> _T:
        """Return the answer to a question, made and kept now unless it was kept before."""
        known: _T | None = self.find(kind, question, form)
        if known is None:
            known = make()
            self.keep(kind, question, known, form)
        return known

    def recall_shared(
        self, kind: str, question: Question, form: Any, make: Callable[[], _T], progress: Progress
    ) -> _T:
        """Do as `recall`; where several processes ask the same, one answers and the others wait for it."""
        if isinstance(self.cache, StagedCache):
            return self.cache.recall(kind, question, form, make, progress)
        return self.recall(kind, question, form, make)

    def recall_arms(
        self,
        arms: Sequence[Arm],
        measure: Callable[[Sequence[Arm]], Sequence[Measurement]],
        *,
        model_id: str,
        protocol: str,
        answering: Collection[Purpose],
        begin: Look,
        end: Look,
    ) -> tuple[Measurement, ...]:
        """Measure the arms that were not kept on part of the text, some at a time, and keep them.

        The baseline is the first of the arms and of every group of them; `answering` holds the purposes of those
        in which multiple-choice items are answered. The part is the windows and items from `begin` to before
        `end`. Returns one measurement per arm, in order.
        """
        if self.cache is None:
            return tuple(measure(arms))
        questions = [self._describe_arm(arm, protocol, begin, end, arm.purpose in answering) for arm in arms]
        known = [self.cache.find("arm", question, Measurement) for question in questions]
        missing = [index for index, measured in enumerate(known) if measured is None]
        others = [index for index in missing if index]
        for first in range(0, len(others) or len(missing), ARMS_AT_ONCE):
            indices = [0, *others[first : first + ARMS_AT_ONCE]]
            for index, measured in zip(indices, measure([arms[index] for index in indices]), strict=True):
                if known[index] is None:
                    known[index] = measured
                    self.cache.keep("arm", questions[index], measured)
        return tuple(measured.model_copy(update={"model": model_id}) for measured in known if measured is not None)

    def _describe_arm(self, arm: Arm, protocol: str, begin: Look, end: Look, answers: bool) -> Question:
        learns = any(isinstance(act, QuantizeActivations | Smooth) for act in arm.acts)
        decisive = {"choices": answers, "calibration": learns}
        return {
            "model": self.model,
            "text": {key: part for key, part in self.text.items() if decisive.get(key, True)},
            "protocol": protocol,
            "windows": [begin.windows, end.windows],
            "items": [begin.items, end.items] if answers else None,
            "arm": arm.model_dump(mode="json"),
        }


NO_CACHE = ArmCache()
"""Keeps nothing."""


def digest_program() -> str:
    """Return the sha256 over the source of sw-audit itself: figures of another version are none of this one."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted((*root.rglob("*.py"), *root.rglob("*.toml"))):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def open_cache(folder: Path | None, *, asked: bool) -> Cache:
    """Return the cache in a folder, by default `.sw-audit/cache` in the working folder.

    Raises:
        OutputError: If the folder was asked for and cannot be used.
    """
    place = folder or Path.cwd() / FOLDER
    if asked:
        above = next(parent for parent in (place, *place.absolute().parents) if parent.exists())
        if not (above.is_dir() and os.access(above, os.W_OK)):
            raise OutputError(f"cache {place}", "it cannot be written there", "name another folder, or --no-cache")
    return Cache(place)


def _name(kind: str, question: Question) -> Path:
    name = _digest(question)
    return Path(kind, name[:2], f"{name}.json")


def _read(place: Path, form: type[_T]) -> _T | None:
    try:
        entry = json.loads(place.read_text(encoding="utf-8"))
        if (entry["form"], _digest(entry["answer"]), _digest(entry["question"])) != (
            _FORM,
            entry["digest"],
            place.stem,
        ):
            return None
        answer = TypeAdapter(form).validate_json(json.dumps(entry["answer"]), strict=True)
        with suppress(OSError):  # a cache that can only be read
            os.utime(place)  # it was used, see `cache_upkeep`
        return answer
    except (OSError, ValueError, LookupError, TypeError, RecursionError, ValidationError):
        return None


def _canonical(content: object) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _digest(content: object) -> str:
    return hashlib.sha256(_canonical(content).encode()).hexdigest()
