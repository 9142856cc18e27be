"""Every method there is, by name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from sw_audit.backends import auto_round, bitsandbytes, gptqmodel, hqq, quanto, torchao
from sw_audit.backends.method import Method
from sw_audit.errors import InputError

METHODS: tuple[Method, ...] = (
    *bitsandbytes.METHODS,
    *torchao.METHODS,
    *hqq.METHODS,
    *quanto.METHODS,
    *auto_round.METHODS,
    *gptqmodel.METHODS,
)


def find_methods(names: Iterable[str]) -> tuple[Method, ...]:
    """Return methods by their names, in the order of the names.

    Raises:
        InputError: If there is no method of a name.
    """
    known = {method.name: method for method in METHODS}
    found = []
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            remedy = f"write {near[0]!r}" if near else f"choose among {', '.join(known)}"
            raise InputError(f"method {name!r}", "there is no such quantizer", remedy)
        found.append(known[name])
    return tuple(found)
