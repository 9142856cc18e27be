"""What a checkpoint's own files say of the model it was made from.

Only four things are believed, for each is written by the program that made the checkpoint and names a hub id: its
place in the hub's cache; `base_model` in the front matter of its model card (and `base_model_name_or_path` of an
adapter); `_name_or_path` in `config.json`, which transformers wrote until version 4; and the repository of the
source, or of the only base model, in the metadata of a GGUF file. What a folder or a file is called is never
believed, for it can be called anything; nor is a path of another machine, nor a model card that names several
parents, which is a merge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sw_audit.gguf_file import read_gguf

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_CACHED = re.compile(r"models--(?P<name>[^/\\]+)")
_FRONT_MATTER = re.compile(r"\A---\s*\n(?P<yaml>.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_BASE_MODEL = re.compile(r"^base_model:[ \t]*(?P<inline>[^\n]*)\n?(?P<listed>(?:[ \t]*-[^\n]*\n?)*)", re.MULTILINE)
_HUB_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<id>[\w.-]+/[\w.-]+)/?")
_SOURCES = ("general.source.repo_url", "general.source.huggingface.repository", "general.base_model.0.repo_url")
_SEVERAL = "general.base_model.1.repo_url"
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


def read_ancestors(place: Path) -> tuple[BaseModelName, ...]:
    """Read which models a folder or a file of weights says it is or was made from, the most reliable first.

    Files that cannot be read say nothing. What is beside a GGUF file is not about it.
    """
    if place.suffix == ".gguf" and place.is_file():
        return tuple(_list_sources(_read_metadata(place)))
    return tuple(_list_ancestors(place if place.is_dir() else place.parent))


def read_names(place: Path) -> tuple[str, ...]:
    """Read what a folder or a file is called, and what a GGUF file calls its model: hints, and no more."""
    if place.is_dir():
        return (place.resolve().name,)
    metadata = _read_metadata(place) if place.suffix == ".gguf" else {}
    name, base, size = (metadata.get(f"general.{key}", "") for key in ("name", "basename", "size_label"))
    names = (place.stem, "-".join(name.split()), "-".join(filter(None, (base, size))))
    return tuple(filter(None, names))


def _list_sources(metadata: Mapping[str, str]) -> Iterator[BaseModelName]:
    for key in _SOURCES:
        named = metadata.get(key, "")
        page = _HUB_PAGE.fullmatch(named)
        parent = page["id"] if page else named
        if _HUB_ID.fullmatch(parent) and not (key == _SOURCES[-1] and _SEVERAL in metadata):
            yield BaseModelName(parent, f"`{key}` of its metadata")


def _read_metadata(path: Path) -> Mapping[str, str]:
    """Read the texts in the metadata of a GGUF file; nothing without the package `gguf`, or of a damaged file."""
    if find_spec("gguf") is None:
        return {}
    from gguf import GGUFValueType

    try:
        fields = read_gguf(path).fields.items()
    except Exception:  # numpy complains of a file that is cut off, in its own words; opening says so
        return {}
    return {key: str(field.contents()) for key, field in fields if field.types == [GGUFValueType.STRING]}


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
        return path.read_text(encoding="utf-8") if path.is_file() and path.stat().st_size <= _LARGEST else ""
    except (OSError, UnicodeDecodeError):
        return ""
