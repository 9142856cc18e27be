"""Index files: the one that ships, and a user's own; both of one form, in TOML."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from sw_audit.errors import IndexFileError
from sw_audit.fact import write_location
from sw_audit.record.published import Impact, PublishedIndex, PublishedModel, PublishedWeight
from sw_audit.toml_text import parse_toml

MARK = "sw-audit-index"
"""The key that every index begins with; its value is the version of the form."""

_Part = TypeVar("_Part")
_REMEDY = "give a file that `sw-audit locate MODEL --update-index FILE` has written"
_MISSING = "`sw-audit locate MODEL --update-index FILE` writes one"


@cache
def read_published() -> PublishedIndex:
    """Read the published coordinates that ship with sw-audit."""
    text = resources.files("sw_audit.index").joinpath("published.toml").read_text(encoding="utf-8")
    return parse_index(text, "published.toml")


def read_index(path: Path) -> PublishedIndex:
    """Read an index file.

    Raises:
        IndexFileError: If there is no such file, or it is not an index.
    """
    return parse_index(read_text(path), str(path))


def read_text(path: Path) -> str:
    """Read the text of an index file, line ends as they are.

    Raises:
        IndexFileError: If there is no such file, or it is no text.
    """
    asked = f"index {path}"
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise IndexFileError(asked, "it is not text in UTF-8", _REMEDY) from error
    except OSError as error:
        remedy = _MISSING if isinstance(error, FileNotFoundError) else _REMEDY
        raise IndexFileError(asked, error.strerror or type(error).__name__, remedy) from error


def parse_index(text: str, origin: str) -> PublishedIndex:
    """Make an index of its text.

    Raises:
        IndexFileError: If it is not TOML, does not begin as an index, says what an index cannot say, or cites
            a source that it does not hold.
    """
    asked = f"index {origin}"
    try:
        document = parse_toml(text)
    except ValueError as error:
        raise IndexFileError(asked, f"it is not TOML: {error}", _REMEDY) from error
    if MARK not in document:
        raise IndexFileError(asked, f"it is not an index: it lacks `{MARK} = 1`", _REMEDY)
    try:
        # Through JSON, for in strict mode pydantic reads tuples and enums only from JSON.
        plain = json.dumps(document, default=str)
        index = PublishedIndex.model_validate_json(plain, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        problem = (
            "there is no such key"
            if first["type"] == "extra_forbidden"
            else first["msg"].removeprefix("Value error, ")
        )
        raise IndexFileError(
            f"{asked}, key {write_location(first['loc'])}", problem, "correct it there"
        ) from error
    _check_sources(index, asked)
    return index


def merge_indexes(first: PublishedIndex, *others: PublishedIndex) -> PublishedIndex:
    """Put indexes together: what they say of one model becomes one entry.

    A coordinate that several know of keeps the first impact that was measured, and all its sources, effects
    and notes. Two entries are of one model if their ids are equal, case aside.
    """
    models: dict[str, PublishedModel] = {}
    for index in (first, *others):
        for model in index.models:
            known = models.get(model.id.casefold())
            models[model.id.casefold()] = model if known is None else _merge_models(known, model)
    sources = {source.key: source for index in reversed((first, *others)) for source in reversed(index.sources)}
    return PublishedIndex(
        schema_number=first.schema_number,
        sources=tuple(reversed(sources.values())),
        models=tuple(models.values()),
    )


def _merge_models(first: PublishedModel, second: PublishedModel) -> PublishedModel:
    weights: dict[object, PublishedWeight] = {}
    for weight in (*first.weights, *second.weights):
        place = weight.coordinate, weight.scalar
        known = weights.get(place)
        weights[place] = weight if known is None else _merge_weights(known, weight)
    lists = ("aliases", "digests", "variants", "effects", "curves", "remarks")
    united = {name: _unite(getattr(first, name), getattr(second, name)) for name in lists}
    return first.model_copy(update={**united, "weights": tuple(weights.values())})


def _merge_weights(first: PublishedWeight, second: PublishedWeight) -> PublishedWeight:
    notes = [first.note] if second.note in ("", first.note) else [first.note, second.note]
    return first.model_copy(
        update={
            "parameter": first.parameter or second.parameter,
            "value": second.value if first.value is None else first.value,
            "bearing": second.bearing if first.bearing is Impact.UNMEASURED else first.bearing,
            "sources": _unite(first.sources, second.sources),
            "effects": _unite(first.effects, second.effects),
            "note": " ".join(note for note in notes if note),
        }
    )


def _unite(first: Iterable[_Part], second: Iterable[_Part]) -> tuple[_Part, ...]:
    united: list[_Part] = []
    for part in (*first, *second):
        if part not in united:
            united.append(part)
    return tuple(united)


def _check_sources(index: PublishedIndex, asked: str) -> None:
    known = {source.key for source in index.sources}
    for model in index.models:
        for key in list_citations(model):
            if key not in known:
                problem = f"the entry {model.id!r} cites {key!r}, which is no source of it"
                raise IndexFileError(asked, problem, "add the source")


def list_citations(model: PublishedModel) -> tuple[str, ...]:
    """List the keys of all sources that an entry cites, each once, in the order of the entry."""
    keys = [key for variant in model.variants for key in variant.sources]
    for weight in model.weights:
        keys += [*weight.sources, *(effect.source for effect in weight.effects)]
    keys += [effect.source for effect in model.effects]
    keys += [curve.source for curve in model.curves]
    keys += [key for remark in model.remarks for key in remark.sources]
    return tuple(dict.fromkeys(keys))
