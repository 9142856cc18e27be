"""Whether files are those that a record was made from: weights and texts, by their digests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sw_audit.checkpoint.digest import digest_paths
from sw_audit.corpus.text import BUILT_IN, read_corpus
from sw_audit.errors import CorpusError, InputError
from sw_audit.policy.policy import CorpusPolicy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.identity import FileDigest
from sw_audit.record.record import Record
from sw_audit.record.store import Doubt
from sw_audit.record.subjects import Subject
from sw_audit.specimen.shipped import find_shipped


def verify_weights(
    subjects: Sequence[Subject], given: Sequence[str], progress: Progress = ignore_progress
) -> tuple[list[str], list[Doubt]]:
    """Hold weight files against the digests of a record.

    Args:
        subjects: What the record knows.
        given: Folders or files, each for the subject whose files it holds, or `ID=PATH`.
        progress: Told while files are digested, in mebibytes.

    Returns:
        The names of subjects whose files are those of the record, and what differs in others.

    Raises:
        InputError: If there is no such file, or it cannot be told which subject it is for.
    """
    same: list[str] = []
    doubts: list[Doubt] = []
    for word in given:
        subject, found = _pair(word, subjects, progress)
        differing = list(_compare_files(subject, found))
        doubts += differing
        if not differing:
            same.append(subject.name)
    return same, doubts


def locate_weights(word: str, subjects: Sequence[Subject]) -> tuple[Sequence[Subject], Path]:
    """Return whose weights these may be, given as a folder or file or as `ID=PATH`, and where they lie.

    Raises:
        InputError: If there is no such file.
    """
    name, _, rest = word.partition("=")
    named = [subject for subject in subjects if rest and subject.name == name and not Path(word).exists()]
    path = Path(find_shipped(rest if named else word)).expanduser()
    if not path.exists():
        raise InputError(f"model {word!r}", "there is no such file or folder", "give the folder of its weights")
    return named or subjects, path


def _pair(word: str, subjects: Sequence[Subject], progress: Progress) -> tuple[Subject, tuple[FileDigest, ...]]:
    """Find which subject a folder or file is for, and digest the files of it that the subject has."""
    candidates, path = locate_weights(word, subjects)
    wanted = {file.path for subject in candidates for file in subject.files}
    root = path if path.is_dir() else path.parent
    places = [path] if path.is_file() else [root / name for name in sorted(wanted) if (root / name).is_file()]
    found = digest_paths(places, root, progress)
    for subject in candidates:
        if all(file in found for file in subject.files):
            return subject, found
    alike = [one for one in candidates if {file.path for file in one.files} & {file.path for file in found}]
    there = [one for one in alike or candidates if Path(one.source).expanduser().resolve() == path.resolve()]
    close = there or alike or candidates
    if len(close) == 1:
        return close[0], found
    known = ", ".join(one.name for one in close) or "none, for no weights were digested"
    problem = f"its weights are those of no model of the record, which knows {known}"
    raise InputError(f"model {word!r}", problem, "say which it is meant to be: ID=PATH")


def _compare_files(subject: Subject, found: Sequence[FileDigest]) -> Iterator[Doubt]:
    there = {file.path: file for file in found}
    for file in subject.files:
        place, now = f"weights[{subject.name}].{file.path}", there.get(file.path)
        if now is None:
            yield Doubt(place, "the file is not there")
        elif now.size != file.size:
            yield Doubt(place, f"it has {now.size:,} bytes, and the record says {file.size:,}")
        elif now.sha256 != file.sha256:
            yield Doubt(place, f"its sha256 is {now.sha256}, and the record says {file.sha256}")


def verify_texts(record: Record) -> tuple[list[str], list[Doubt]]:
    """Hold the texts that were measured on against their digests, as far as they are at hand; nothing is fetched.

    Returns:
        The names of texts that are those of the record, and what differs or is not at hand.
    """
    policies = [part.policy for part in record.parts]
    corpora = {one.source: one for policy in policies for one in (policy.corpus, *policy.descent.texts)}
    same: list[str] = []
    doubts: list[Doubt] = []
    for text in dict.fromkeys(protocol.corpus for protocol in record.protocols):
        place = f"text {text.name}"
        asked = corpora.get(text.name) or CorpusPolicy(source=text.name)
        if text.name not in BUILT_IN and not Path(text.name).expanduser().is_file():
            doubts.append(Doubt(place, "it is not at hand, so its digest was not compared", open=True))
            continue
        try:
            now = read_corpus(asked).identity
        except CorpusError as error:
            doubts.append(Doubt(place, f"it cannot be read ({error.found})", open=True))
            continue
        if now.sha256 == text.sha256:
            same.append(text.name)
        else:
            doubts.append(Doubt(place, f"its sha256 is {now.sha256}, and the record says {text.sha256}"))
    return same, doubts
