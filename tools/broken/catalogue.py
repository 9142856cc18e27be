"""The ways to break a checkpoint in silence, each with the checks that must catch it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.broken.copies import Copy

Damage = Callable[[Copy], Any]


@dataclass(frozen=True)
class Broken:
    """One way.

    Attributes:
        name: What it is called.
        kind: What is broken.
        what: How, a sentence.
        caught_by: Ids of the checks that must fail; none where it is known to slip through.
        damage: Does it to a copied folder.
        form: Name of the sound form that it begins with, see `tools.broken.sound`.
    """

    name: str
    kind: str
    what: str
    caught_by: tuple[str, ...]
    damage: Damage
    form: str = "plain"


CATALOGUE: dict[str, Broken] = {}
"""All ways by name, once the modules that hold them are imported."""


def add(name: str, kind: str, what: str, caught_by: tuple[str, ...], damage: Damage, form: str = "plain") -> None:
    """Add a way.

    Raises:
        ValueError: If there is one of that name.
    """
    if name in CATALOGUE:
        raise ValueError(f"two ways are called {name}")
    CATALOGUE[name] = Broken(name, kind, what, caught_by, damage, form)


def breaks(kind: str, *caught_by: str, form: str = "plain") -> Callable[[Damage], Damage]:
    """Add the decorated function as a way; its name and the first line of its docstring are the way's."""

    def register(damage: Damage) -> Damage:
        name = str(getattr(damage, "__name__", "")).replace("_", "-")
        add(name, kind, (damage.__doc__ or "").splitlines()[0], caught_by, damage, form)
        return damage

    return register
