"""What a folder's own files say of the model it was made from.

Only three things are believed, for each is written by the program that made the folder and names a hub id:
the folder's place in the hub's cache, `base_model` in the front matter of its model card (and
`base_model_name_or_path` of an adapter), and `_name_or_path` in `config.json`, which transformers wrote until
version 4. What the folder is called is never believed, for a folder can be called anything; nor is a path of
another machine, nor a model card that names several parents, which is a merge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_CACHED = re.compile(r"models--(?P<name>[^/\\]+)")
_FRONT_MATTER = re.compile(r"\A---\s*\n(?P<yaml>.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_BASE_MODEL = re.compile(r"^base_model:[ \t]*(?P<inline>[^\n]*)\n?(?P<listed>(?:[ \t]*-[^\n]*\n?)*)", re.MULTILINE)
_LARGEST = 1_000_000
"""Bytes: a configuration or a model card larger than this is neither."""


@dataclass(frozen=True)
class BaseModelName:
    """A hub id that a folder's files name.

    Attributes:
        id: The hub id.
        where: Which file says so.
        same: Whether it is the same model, and not only one that this was made from.
    """

    id: str
    where: str
    same: bool = False


def read_ancestors(folder: Path) -> tuple[BaseModelName, ...]:
    """Read which models a folder says it is or was made from, the most reliable first.

    Files that cannot be read say nothing.
    """
    return tuple(_list_ancestors(folder))


def _list_ancestors(folder: Path) -> Iterator[BaseModelName]:
    place = folder.absolute()
    if place.parent.name == "snapshots" and (cached := _CACHED.fullmatch(place.parent.parent.name)):
        yield BaseModelName(cached["name"].replace("--", "/"), "its place in the hub's cache", same=True)
    card = _FRONT_MATTER.match(_read(folder / "README.md").replace("\r\n", "\n"))
    if card is not None and (base := _BASE_MODEL.search(card["yaml"] + "\n")):
        items = [base["inline"].strip("[] \t"), *(line.strip(" \t-") for line in base["listed"].splitlines())]
        parents = {name for item in items for part in item.split(",") if (name := part.strip(" \t'\""))}
        if len(parents) == 1 and _HUB_ID.fullmatch(parent := parents.pop()):
            yield BaseModelName(parent, "`base_model` of its model card")
    for file, key in (("adapter_config.json", "base_model_name_or_path"), ("config.json", "_name_or_path")):
        try:
            document = json.loads(_read(folder / file))
        except (ValueError, RecursionError):
            continue
        named = document.get(key) if isinstance(document, dict) else None
        if isinstance(named, str) and _HUB_ID.fullmatch(named):
            yield BaseModelName(named, f"`{key}` of its {file}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.stat().st_size <= _LARGEST else ""
    except (OSError, UnicodeDecodeError):
        return ""
