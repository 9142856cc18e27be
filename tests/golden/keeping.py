"""Keeps what the program said in `data/`, and holds what it says now against that.

To keep what it says now, after a change that was meant:

    SW_AUDIT_FREEZE=1 python -m pytest tests/golden -n 0

and read the difference before it is committed: a verdict, a located scalar, a sentence is one line each.

Figures are compared to the last bit on the machine they were kept on, which a file tells by `machine`: the
processor, what torch uses of it, and the versions of the libraries. Elsewhere other kernels round otherwise, so
that a figure may be off by `RELATIVE`, and of the section `sentences` only the words are compared. Outcomes,
statuses, exit codes, coordinates and error messages are compared exactly everywhere.
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
RELATIVE, ABSOLUTE = 1e-4, 1e-6
"""How far a figure may be off on another machine."""

LIBRARIES = ("numpy", "safetensors", "tokenizers", "torch", "transformers")
SENTENCES = "sentences"
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
    how = "to the last bit" if exact else f"on another machine, within {RELATIVE:g}"
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
            if now is _MISSING:
                yield f"{section}: {key}: gone; it was {_show(was)}"
            elif was is _MISSING:
                yield f"{section}: {key}: new; it is {_show(now)}"
            elif not _agree(was, json.loads(json.dumps(now)), exact=exact, words=section == SENTENCES):
                yield f"{section}: {key}:\n  was {_show(was)}\n  is  {_show(now)}"


def _agree(was: Any, now: Any, *, exact: bool, words: bool) -> bool:
    if _show(was) == _show(now):
        return True
    if exact or type(was) is not type(now):
        return False
    if isinstance(was, float):
        return math.isclose(was, now, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    if isinstance(was, str):
        return words and _NUMBER.sub("#", was) == _NUMBER.sub("#", now)
    if isinstance(was, list):
        return len(was) == len(now) and all(
            _agree(*pair, exact=exact, words=words) for pair in zip(was, now, strict=True)
        )
    if isinstance(was, dict):
        return was.keys() == now.keys() and all(
            _agree(was[key], now[key], exact=exact, words=words) for key in was
        )
    return False


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
