"""The digest of a record, by which every later change of it is found and its place named.

Canonical JSON is what `json.dumps` writes with sorted keys, no space between tokens, all but ASCII escaped and the
shortest digits that read back to the same number. A record is digested as its document without the key `digest`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sw_audit.fact import Fact

_LISTED = {"measurements": ("arm", "purpose"), "verdicts": ("check",)}
"""Fields of a model that are digested entry by entry, and the keys that lead to an entry's name."""


class RecordDigest(Fact):
    """What a record's content comes to.

    Attributes:
        sha256: Of the record's canonical JSON, 64 hex digits.
        parts: The first 16 hex digits of the sha256 of each part, by where it is, such as
            `models[llama-w4].verdicts[perplexity-ratio]`. They say what was changed; the whole says whether.
    """

    sha256: str
    parts: dict[str, str]


def digest_document(document: Mapping[str, Any]) -> RecordDigest:
    """Digest a record's JSON document; a key `digest` in it does not count."""
    content = {key: value for key, value in document.items() if key != "digest"}
    parts = {place: digest_value(part)[:16] for place, part in _list_parts(content)}
    return RecordDigest(sha256=digest_value(content), parts=parts)


def compare_digests(written: RecordDigest, found: RecordDigest) -> tuple[str, ...]:
    """Name the parts in which a record is not what its digest was made of.

    Where the whole differs and no part does, the digest itself was changed: then that is named.
    """
    places = dict.fromkeys([*found.parts, *written.parts])
    changed = tuple(place for place in places if written.parts.get(place) != found.parts.get(place))
    return changed or (() if written.sha256 == found.sha256 else ("digest",))


def write_canonical(value: Any) -> str:
    """Write a JSON value canonically: the same text for the same value, all of it printable ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_value(value: Any) -> str:
    """Return the sha256 (64 hex digits) of a JSON value's canonical text."""
    return hashlib.sha256(write_canonical(value).encode()).hexdigest()


def _list_parts(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if key == "models":
            for place, model in zip(_name_entries(value, ("model", "id")), value, strict=True):
                yield from _list_model_parts(f"models{place}", model)
            yield "models", len(value)
        elif key == "policy":
            yield from ((f"policy.{name}", part) for name, part in value.items())
        else:
            yield key, value


def _list_model_parts(model_place: str, model: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in model.items():
        if key in _LISTED:
            for place, entry in zip(_name_entries(value, _LISTED[key]), value, strict=True):
                yield f"{model_place}.{key}{place}", entry
            yield f"{model_place}.{key}", len(value)
        else:
            yield f"{model_place}.{key}", value


def _name_entries(entries: Sequence[Any], path: Sequence[str]) -> list[str]:
    """Name the entries of a list, such as `[baseline]`; by their place where names are missing or come twice."""
    names = []
    for entry in entries:
        for key in path:
            entry = entry.get(key) if isinstance(entry, dict) else entry
        # The purpose of an arm is a kind and what else it takes.
        names.append("/".join(map(str, entry.values())) if isinstance(entry, dict) else entry)
    return [
        f"[{name}]" if isinstance(name, str) and names.count(name) == 1 else f"[{place}]"
        for place, name in enumerate(names)
    ]
