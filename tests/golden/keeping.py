"""Keeps what the program said in `data/`, and holds what it says now against that.

To keep what it says now, after a change that was meant:

    SW_AUDIT_FREEZE=1 python -m pytest tests/golden -n 0

and read the difference before it is committed: a verdict, a located scalar, a sentence is one line each.

Everything is compared exactly, figures to the last bit, on the machine it was kept on. A file tells that machine
by `machine`: the processor, what torch uses of it, and the versions of the libraries. Elsewhere other kernels
round otherwise. There a figure may be off as far as `TOLERANCE` says: what a rounded activation falls to can turn
on the last bit, so that verdicts are given more room than located scalars. Findings below a verdict need the same
status only, and sentences the same words around their numbers; either may be there or not. Statuses, outcomes,
exit codes, coordinates and error messages are compared exactly everywhere.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

DATA = Path(__file__).parent / "data"
TOLERANCE = {"figures": (1e-2, 1e-3), "findings": (math.inf, math.inf)}
"""How far a figure of a section may be off on another machine, relative to it and in absolute terms."""

OTHERWISE = (1e-4, 1e-6)
OPTIONAL = ("findings", "sentences")
"""Sections whose entries may be there or not on another machine."""

LIBRARIES = ("numpy", "safetensors", "tokenizers", "torch", "transformers")
_PROCESSOR = ("model name", "cpu family", "model", "stepping")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
_MISSING = object()

Sections = Mapping[str, Mapping[str, Any]]
"""Under a section's name, under an entry's key, what was said."""


def compare_or_keep(name: str, seen: Sections, *, rounded: bool = True) -> None:
    """Fail with every difference from what was kept under a name, or keep it if that is asked for.

    Args:
        name: The file in `data/`, without `.json`.
        seen: What the program says now.
        rounded: Whether there are figures in it, which depend on the machine.
    """
    path = DATA / f"{name}.json"
    here = {"machine": describe_machine()} if rounded else {}
    if os.environ.get("SW_AUDIT_FREEZE") == "1":
        path.write_text(write_lines({**here, **seen}), encoding="utf-8")
        return
    kept = json.loads(path.read_text(encoding="utf-8"))
    exact = kept.pop("machine", {}) == here.get("machine", {})
    differences = list(find_differences(kept, seen, exact=exact))
    how = "to the last bit" if exact else "on another machine"
    assert not differences, f"{path.name}, compared {how}:\n" + "\n".join(differences)


def describe_machine() -> dict[str, str]:
    """Describe what decides how figures are rounded."""
    return {
        "processor": _name_processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": "1",
        **{library: version(library) for library in LIBRARIES},
    }


def write_lines(sections: Sections) -> str:
    """Write JSON with one entry a line."""
    parts = []
    for section, entries in sections.items():
        lines = [f"{json.dumps(key)}: {json.dumps(entry, ensure_ascii=False)}" for key, entry in entries.items()]
        parts.append(f"{json.dumps(section)}: {{\n" + ",\n".join(lines) + "\n}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def find_differences(kept: Sections, seen: Sections, *, exact: bool) -> Iterator[str]:
    """Yield a line for every entry that is gone, new or another."""
    for section in {**kept, **seen}:
        before, after = kept.get(section, {}), seen.get(section, {})
        for key in {**before, **after}:
            was, now = before.get(key, _MISSING), after.get(key, _MISSING)
            if was is _MISSING or now is _MISSING:
                if exact or section not in OPTIONAL:
                    yield f"{section}: {key}: " + (
                        f"gone: {_show(was)}" if now is _MISSING else f"new: {_show(now)}"
                    )
                continue
            now = json.loads(json.dumps(now))
            if _show(was) != _show(now) and (exact or not _resemble(was, now, section)):
                yield f"{section}: {key}:\n  was {_show(was)}\n  is  {_show(now)}"


def _resemble(was: Any, now: Any, section: str) -> bool:
    if type(was) is not type(now):
        return False
    if isinstance(was, float):
        relative, absolute = TOLERANCE.get(section, OTHERWISE)
        return math.isclose(was, now, rel_tol=relative, abs_tol=absolute)
    if isinstance(was, str) and section == "sentences":
        return _NUMBER.sub("#", was) == _NUMBER.sub("#", now)
    if isinstance(was, list):
        return len(was) == len(now) and all(_resemble(*pair, section) for pair in zip(was, now, strict=True))
    if isinstance(was, dict):
        return was.keys() == now.keys() and all(_resemble(was[key], now[key], section) for key in was)
    return bool(was == now)


def _show(value: Any) -> str:
    # Numbers are written so that they are read back to the last bit, and 1 is not 1.0.
    return json.dumps(value, ensure_ascii=False)


def _name_processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    said = [line.partition(":") for line in lines]
    found = {key.strip(): value.strip() for key, _, value in reversed(said)}
    told = [f"{key} {found[key]}" for key in _PROCESSOR if key in found]
    return ", ".join(told) or f"{platform.machine()} {platform.processor()}"
