"""Which tensor is which in two checkpoints whose names have other beginnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator


def match_names(ours: Iterable[str], theirs: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the names of one tensor in both: equal, or equal in the longest end that is no other's."""
    known = set(theirs)
    same = [name for name in ours if name in known]
    yield from ((name, name) for name in same)
    left = known.difference(same)
    others = [name for name in ours if name not in known]
    ends = Counter(end for name in left for end in _list_ends(name))
    mine = Counter(end for name in others for end in _list_ends(name))
    found = {end: name for name in left for end in _list_ends(name) if ends[end] == 1}
    for name in others:
        end = next((end for end in _list_ends(name) if ends[end]), None)
        if end in found and mine[end] == 1:
            yield name, found[end]


def _list_ends(name: str) -> Iterator[str]:
    """Yield what is left of a name without its first parts, longest first; a layer's number stays."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    for begin in range(max(1, number)):
        yield ".".join(parts[begin:])
