"""Every method there is, by name: what the files in `libraries` register."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module

from sw_audit.backends import libraries
from sw_audit.backends.method import REGISTERED, Method
from sw_audit.errors import InputError

for _module in pkgutil.iter_modules(libraries.__path__):
    import_module(f"{libraries.__name__}.{_module.name}")

METHODS: tuple[Method, ...] = tuple(sorted(REGISTERED, key=lambda method: method.order))


def find_methods(names: Iterable[str]) -> tuple[Method, ...]:
    """Return methods by their names, in the order of the names.

    Raises:
        InputError: If there is no method of a name.
    """
    known = {method.name: method for method in METHODS}
    chosen = []
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            remedy = f"write {near[0]!r}" if near else f"choose among {', '.join(known)}"
            raise InputError(f"method {name!r}", "there is no such quantizer", remedy)
        chosen.append(known[name])
    return tuple(chosen)
