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
    if not modules:
        return ()
    names = ", ".join(f'"{name}"' for name in (_HEAD, *modules))
    patterns = ", ".join(f'r"-:^{re.escape(name)}$": {{}}' for name in modules)
    return (
        Paste(where="llm-compressor, in the modifier", text=f"ignore=[{names}]"),
        Paste(where="GPTQModel, in QuantizeConfig", text=f"dynamic={{{patterns}}}"),
        Paste(where="bitsandbytes, in BitsAndBytesConfig", text=f"llm_int8_skip_modules=[{names}]"),
    )


def write_ignore(modules: Sequence[str]) -> str:
    """Write the same as a clause, such as `leave a.b out of quantization (llm-compressor: ...)`."""
    lines = "; ".join(f"{one.where.partition(',')[0]}: `{one.text}`" for one in paste_ignore(modules))
    return f"leave {', '.join(modules)} out of quantization ({lines})"
