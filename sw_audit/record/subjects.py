"""The weight files that a record was made from, by whose they are."""

from __future__ import annotations

from dataclasses import dataclass

from sw_audit.record.identity import FileDigest, ModelIdentity
from sw_audit.record.record import Record

_BASE = "base/"


@dataclass(frozen=True)
class Subject:
    """Weight files that a record knows.

    Attributes:
        name: Id of the model; of what an adapter changes, with `(base)` after it.
        source: Where they lay.
        files: Their digests.
    """

    name: str
    source: str
    files: tuple[FileDigest, ...]


def list_subjects(record: Record) -> list[Subject]:
    """Return the weight files of every model, parent and base of an adapter that were digested, each once."""
    identities: list[ModelIdentity] = []
    for result in record.results:
        identities += [result.model, *([] if result.descent is None else [result.descent.parent])]
    subjects: dict[tuple[FileDigest, ...], Subject] = {}
    for identity in identities:
        own = tuple(file for file in identity.files if not file.path.startswith(_BASE))
        base = tuple(
            file.model_copy(update={"path": file.path.removeprefix(_BASE)})
            for file in identity.files
            if file.path.startswith(_BASE)
        )
        for name, files in ((identity.id, own), (f"{identity.id} (base)", base)):
            if files:
                subjects.setdefault(files, Subject(name, identity.source, files))
    return list(subjects.values())
