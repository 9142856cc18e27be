"""Baselines: records kept under a name, to hold later models against."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from sw_audit.errors import OutputError, RecordError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.policy import Policy
from sw_audit.record.baseline import Baseline
from sw_audit.record.codec import encode_record
from sw_audit.record.record import Record
from sw_audit.record.store import check_writable, read_record, write_text

FOLDER = Path(".sw-audit", "baselines")
"""Where baselines lie, in the working folder or in the nearest one above that has it."""

_NAME = re.compile(r"\w[\w.+-]*")
_FILES = (".json", ".html", ".htm")


def is_name(word: str) -> bool:
    """Whether a word names a baseline; anything else is the path of a record."""
    return _NAME.fullmatch(word) is not None and not word.lower().endswith(_FILES)


def find_shelf(start: Path | None = None) -> Path:
    """Return the folder of baselines that holds for a folder, by default the working folder; it need not exist."""
    here = (start or Path.cwd()).resolve()
    folders = (place / FOLDER for place in (here, *here.parents) if (place / FOLDER).is_dir())
    return next(folders, here / FOLDER)


def list_baselines() -> tuple[str, ...]:
    """Return the names of the baselines that are kept here."""
    shelf = find_shelf()
    return tuple(sorted(path.stem for path in shelf.glob("*.json"))) if shelf.is_dir() else ()


def check_name(name: str) -> None:
    """Complain about a name that no baseline can have, or a place that none can be kept in.

    Raises:
        OutputError: If there is something to complain about.
    """
    if not is_name(name):
        remedy = "use letters, digits, '-', '_', '+' and '.', and no ending such as .json"
        raise OutputError(f"baseline {name!r}", "this is no name", remedy)
    shelf = find_shelf()
    existing = next(place for place in (shelf, *shelf.parents) if place.exists())
    check_writable(existing)


def keep_baseline(name: str, record: Record) -> Path:
    """Keep a record under a name; one of that name that was there before is replaced as a whole.

    Returns:
        Where it lies.

    Raises:
        OutputError: If the name or the place cannot be used, or the record holds no model that was measured.
    """
    check_name(name)
    if not any(result.unedited for result in record.results):
        remedy = "look at why the model could not be audited, then save again"
        raise OutputError(f"baseline {name!r}", "no model was measured, so there is nothing to keep", remedy)
    path = find_shelf() / f"{name}.json"
    check_writable(path.parent)
    write_text(path, encode_record(record))
    return path


def open_baseline(named: str) -> Record:
    """Read the record of a baseline.

    Args:
        named: Its name, the path of a record, or of a folder with a `record.json`.

    Raises:
        RecordError: If there is none, or it cannot be used.
    """
    path = Path(named).expanduser()
    if is_name(named) and (kept := find_shelf() / f"{named}.json").is_file():
        return read_record(kept)
    if path.is_dir() and (path / "record.json").is_file():
        return read_record(path / "record.json")
    if not is_name(named):
        return read_record(path)
    known = list_baselines()
    near = get_close_matches(named, known, n=1, cutoff=0.4)
    remedy = f"did you mean {near[0]!r}?" if near else "keep one with `sw-audit audit MODEL --save NAME`"
    raise RecordError(f"baseline {named!r}", f"there is none in {find_shelf()}", remedy)


def find_baseline(policy: Policy, model: ModelPolicy) -> Baseline | None:
    """Return what a model of a policy is held against; `None` where the policy compares with nothing.

    Of a record with several models it is the one of the same id, else the one of the model's parent.

    Raises:
        RecordError: If there is no such baseline, or it does not say which of its models is meant.
    """
    if policy.compare is None:
        return None
    record = open_baseline(policy.compare)
    parent = policy.find_parent(model)
    wanted = [model.id, *([parent.id] if parent else [])]
    return choose_baseline(record, policy.compare, wanted)


def choose_baseline(record: Record, named: str, wanted: list[str]) -> Baseline:
    """Make a baseline of one of a record's models: the first that is wanted, else the only one.

    Raises:
        RecordError: If the record holds none of them, and not just one model, or that was not measured.
    """
    asked = f"baseline {named!r}"
    ids = [result.id for result in record.results]
    found = next((one for one in wanted if one in ids), ids[0] if len(ids) == 1 else None)
    if found is None:
        holds = f"it holds {', '.join(ids)}, and no {wanted[0]}" if ids else "it holds no model"
        remedy = (
            "give the model one of these ids (ID=SOURCE)" if ids else "keep a record of a run that measured one"
        )
        raise RecordError(asked, holds, remedy)
    result = record.find_model(found)
    if result.unedited is None:
        remedy = "keep a record of a run that measured it"
        raise RecordError(asked, f"{found} was not measured in it", remedy)
    return Baseline(
        name=named,
        created=record.created,
        tool=record.tool,
        model=result.model,
        protocol=result.protocol,
        location=result.location,
        measurement=result.unedited,
    )
