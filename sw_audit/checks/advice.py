"""Advice that can be pasted: how a module is left out of quantization by the tools that quantize."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sw_audit.record.verdict import Paste

# Giving bitsandbytes a list of its own takes its default, the head, off the list; llm-compressor has no default.
_HEAD = "lm_head"


@dataclass(frozen=True)
class LeftOut:
    """What is left out of quantization.

    Attributes:
        modules: Qualified names, such as `model.layers.2.mlp.down_proj`.
        kinds: Paths inside every decoder layer, such as `mlp.down_proj`.
        layers: Qualified names of whole decoder layers, such as `model.layers.2`.
    """

    modules: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()

    def __str__(self) -> str:
        named = [
            *self.modules,
            *(f"every {path}" for path in self.kinds),
            *(f"all of {one}" for one in self.layers),
        ]
        return ", ".join(named)


def paste_ignore(left_out: LeftOut) -> tuple[Paste, ...]:
    """Write the entries that leave modules out of quantization, one per tool; nothing where nothing is left out.

    llm-compressor takes full names, or regular expressions after `re:`, in `ignore`; GPTQModel regular expressions
    in `dynamic`, where `-:` leaves out what matches from its beginning; transformers full names, those of what
    holds them, or their ends, in `llm_int8_skip_modules`, for 4 bits as for 8.
    """
    return tuple(Paste(where=f"{tool}, in {where}", text=text) for tool, where, text in _list_entries(left_out))


def write_ignore(left_out: LeftOut) -> str:
    """Write the same as a clause, such as `leave a.b out of quantization (llm-compressor: ...)`."""
    lines = "; ".join(f"{tool}: `{text}`" for tool, _, text in _list_entries(left_out))
    return f"leave {left_out} out of quantization ({lines})"


def _list_entries(left_out: LeftOut) -> tuple[tuple[str, str, str], ...]:
    """List, per tool, its name, what the entry stands in, and the entry."""
    if not str(left_out):
        return ()
    ends = [rf".*\.{re.escape(path)}$" for path in left_out.kinds]
    beginnings = [rf"{re.escape(layer)}\." for layer in left_out.layers]
    exact = [rf"{re.escape(name)}$" for name in left_out.modules]
    expressions = "".join(f', r"re:{pattern}"' for pattern in (*ends, *beginnings))
    names = ", ".join(f'"{name}"' for name in (_HEAD, *left_out.modules))
    parts = "".join(f', "{name}"' for name in (*(f".{path}" for path in left_out.kinds), *left_out.layers))
    patterns = ", ".join(f'r"-:^{pattern}": {{}}' for pattern in (*exact, *ends, *beginnings))
    return (
        ("llm-compressor", "the modifier", f"ignore=[{names}{expressions}]"),
        ("GPTQModel", "QuantizeConfig", f"dynamic={{{patterns}}}"),
        ("bitsandbytes", "BitsAndBytesConfig", f"llm_int8_skip_modules=[{names}{parts}]"),
    )
