"""Every engine there is, by name: what the modules of this package register, and entry points of other packages.

Another package adds one by naming an `EngineKind` in the entry-point group `sw_audit.engines`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module

from sw_audit import engines
from sw_audit.engines.engine import REGISTERED, EngineKind
from sw_audit.errors import InputError, PolicyError
from sw_audit.extras import load_extras
from sw_audit.policy.model_policy import ModelPolicy

GROUP = "sw_audit.engines"


@cache
def find_engines() -> Mapping[str, EngineKind]:
    """Return every engine by its name.

    Raises:
        PolicyError: If an entry point cannot be loaded, names no `EngineKind`, or its name is taken.
    """
    for module in pkgutil.iter_modules(engines.__path__):
        import_module(f"{engines.__name__}.{module.name}")
    known = {kind.name: kind for kind in REGISTERED}
    for asked, loaded in load_extras(GROUP, EngineKind, "engine"):
        if known.setdefault(loaded.name, loaded) is not loaded:
            raise PolicyError(asked, "this name is taken", "give the engine a name of its own")
    return dict(sorted(known.items()))


def find_engine(model: ModelPolicy) -> EngineKind:
    """Return the engine that a model is to run in.

    Raises:
        PolicyError: If there is none of that name.
    """
    known = find_engines()
    if model.engine not in known:
        near = get_close_matches(model.engine, known, 1)
        remedy = f"write {near[0]!r}" if near else f"choose among {', '.join(known)}"
        raise PolicyError(f"engine {model.engine!r} of model {model.id!r}", "there is no such engine", remedy)
    return known[model.engine]


def require_engine(model: ModelPolicy) -> None:
    """Check that a model's engine is there and may run its files, as far as that is known before it is opened.

    Raises:
        InputError: If it cannot.
    """
    kind = find_engine(model)
    asked = f"model {model.id!r} in {kind.name}"
    if model.url is not None and not kind.takes_url:
        servers = " or ".join(f'`engine = "{other.name}"`' for other in find_engines().values() if other.takes_url)
        raise PolicyError(f"`url` of {asked}", f"{kind.name} takes none", f"name {servers}, or leave it out")
    for form in model.kv_cache:
        if form not in kind.kv_caches:
            known = f"it has {', '.join(kind.kv_caches)}" if kind.kv_caches else "it has no others than its own"
            raise PolicyError(f"kv_cache {form!r} of {asked}", f"{kind.name} has no such form", f"{known}")
    if (obstacle := kind.find_obstacle(model)) is not None:
        raise InputError(asked, obstacle, "name another engine, or files that it runs")
    kind.require(model)
