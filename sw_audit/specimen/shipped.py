"""Where the shipped files lie, and how to write them out as ordinary checkpoints."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Literal

from sw_audit.errors import InputError
from sw_audit.record.store import whole_folder

_DATA = Path(__file__).parent / "data"


def specimen_path() -> Path:
    """Give the folder of the specimen: a Llama checkpoint with exactly one super weight."""
    return _DATA / "specimen"


def control_path() -> Path:
    """Give the folder of the control: the same model trained in the ordinary way, with no super weight."""
    return _DATA / "control"


def corpus_path() -> Path:
    """Give the held-out corpus: one story per line, as long as the training context without BOS."""
    return _DATA / "corpus.txt"


def choices_path() -> Path:
    """Give the multiple-choice items: one JSON object per line: `context`, `choices`, `answer` (0 to 3)."""
    return _DATA / "choices.jsonl"


@cache
def specimen_vocabulary() -> frozenset[str]:
    """Give every token of the specimen's tokenizer, special ones included."""
    return frozenset(json.loads((_DATA / "specimen" / "tokenizer.json").read_bytes())["model"]["vocab"])


def write_specimen(directory: Path | str) -> list[Path]:
    """Write specimen, control, corpus and choices into a new or empty folder, as ordinary files.

    Args:
        directory: Where to write; made if missing.

    Returns:
        The files written, sorted.

    Raises:
        InputError: If `directory` is a file or holds anything already, or cannot be written.
    """
    target = Path(directory)
    require_new_folder(target, f"write the specimen into {target}")
    with whole_folder(target) as draft:
        shutil.copytree(specimen_path(), draft / "specimen")
        shutil.copytree(control_path(), draft / "control")
        shutil.copy2(corpus_path(), draft)
        shutil.copy2(choices_path(), draft)
    return sorted(path for path in target.rglob("*") if path.is_file())


def require_new_folder(target: Path, asked: str) -> None:
    """Complain about a target that is a file, or a folder that holds anything.

    Raises:
        InputError: Saying which.
    """
    if target.exists() and not target.is_dir():
        raise InputError(asked, "a file of that name", "name a folder that is new or empty")
    if target.is_dir() and any(target.iterdir()):
        raise InputError(asked, "a folder that is not empty", "name a folder that is new or empty")


def find_shipped(source: str) -> str:
    """Return the path of a model that ships with sw-audit for its word, `specimen` or `control`.

    Anything else is returned as it is, and so is the word where a file or folder has that name.
    """
    if source not in ("specimen", "control") or Path(source).exists():
        return source
    return str(specimen_path() if source == "specimen" else control_path())


def tell_expected(source: str) -> Literal["some", "none"] | None:
    """Tell whether a model has super weights, if it ships with sw-audit; a copy elsewhere is no such model."""
    path = Path(source).resolve()
    return "some" if path == specimen_path().resolve() else "none" if path == control_path().resolve() else None
