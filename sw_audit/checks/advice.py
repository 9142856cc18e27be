"""Advice that can be pasted: how a module is left out of quantization by the tools that quantize."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sw_audit.record.verdict import Paste

# Giving bitsandbytes a list of its own takes its default, the head, off the list; llm-compressor has no default.
_HEAD = "lm_head"


def paste_ignore(modules: Sequence[str]) -> tuple[Paste, ...]:
    """Write the entries that leave modules out of quantization, one per tool.

    llm-compressor takes full names in `ignore`; GPTQModel regular expressions in `dynamic`, where `-:` leaves out
    what matches from its beginning; transformers full names in `llm_int8_skip_modules`, for 4 bits as for 8.

    Args:
        modules: Qualified names, such as `model.layers.2.mlp.down_proj`; without one there is nothing to paste.
    """
    return tuple(Paste(where=f"{tool}, in {where}", text=text) for tool, where, text in _list_entries(modules))


def write_ignore(modules: Sequence[str]) -> str:
    """Write the same as a clause, such as `leave a.b out of quantization (llm-compressor: ...)`."""
    lines = "; ".join(f"{tool}: `{text}`" for tool, _, text in _list_entries(modules))
    return f"leave {', '.join(modules)} out of quantization ({lines})"


def _list_entries(modules: Sequence[str]) -> tuple[tuple[str, str, str], ...]:
    """List, per tool, its name, what the entry stands in, and the entry."""
    if not modules:
        return ()
    names = ", ".join(f'"{name}"' for name in (_HEAD, *modules))
    patterns = ", ".join(f'r"-:^{re.escape(name)}$": {{}}' for name in modules)
    return (
        ("llm-compressor", "the modifier", f"ignore=[{names}]"),
        ("GPTQModel", "QuantizeConfig", f"dynamic={{{patterns}}}"),
        ("bitsandbytes", "BitsAndBytesConfig", f"llm_int8_skip_modules=[{names}]"),
    )
