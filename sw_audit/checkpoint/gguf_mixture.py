"""Whether a GGUF file holds the mixture of types that its name, or its metadata, says it does.

A name such as `Q4_K_M` is one of llama.cpp's file types: most matrices are Q4_K, and some of more bits. Which type
is the most frequent follows from `llama_tensor_get_type` in its `llama-quant.cpp`, as does what it falls back to
where rows are no multiple of 256. Mixtures of others, such as dynamic ones, have names of their own and are left
alone.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sw_audit.checkpoint.headers import FLOATS
from sw_audit.record.checkpoint import Contradiction

_FILE_TYPE = "general.file_type"
# The enumeration says of these that they were guessed, or more than one type.
_GUESSED = 1024
_BASES = {
    **{f"Q3_K_{size}": ("Q3_K",) for size in "SML"},
    **{f"Q{bits}_K_{size}": (f"Q{bits}_K",) for bits in (2, 4, 5) for size in "SM"},
    "IQ2_S": ("IQ2_XS", "IQ2_S"),
    "IQ2_M": ("IQ2_S", "IQ2_XS"),
    "IQ3_XS": ("IQ3_S", "IQ3_XXS"),
    "IQ3_M": ("IQ3_S",),
    "IQ4_NL": ("IQ4_NL",),
}
_SHORT_ROWS = {
    **dict.fromkeys(("TQ1_0", "TQ2_0"), ("Q4_0",)),
    "Q4_K": ("Q5_0",),
    "Q5_K": ("Q5_1",),
    "Q6_K": ("Q8_0",),
}
_LOW_SHORT_ROWS = ("IQ4_NL", "Q4_0")
# Quantizers leave what a model was trained in as it is.
_KEPT = ("MXFP4", "NVFP4")
_BLOCK = 256
_DYNAMIC = re.compile(r"(?<![a-z0-9])ud(?![a-z0-9])", re.IGNORECASE)
_LISTED = 3


def hold_mixture(path: Path, reader: Any) -> tuple[Contradiction, ...]:
    """Hold the types of a file's matrices against the type in its name, else against `general.file_type`.

    `reader` is the open `gguf.GGUFReader`. What contradicts a name in most weights is serious; single tensors of
    fewer bits than the mixture has, the embedding and the head among them, are told.
    """
    from gguf import GGML_QUANT_SIZES, LlamaFileType

    names = {member.name.partition("_")[2]: member for member in LlamaFileType if member.value != _GUESSED}
    claims = _find_claims(path.stem, names)
    field = reader.get_field(_FILE_TYPE)
    stored_type = None if field is None else field.contents()
    declared = next((name for name, member in names.items() if member.value == stored_type), None)
    if _DYNAMIC.search(path.stem) or len(claims) > 1:
        return ()
    named = bool(claims)
    claim, said = (claims[0], "its name says") if claims else (declared, f"{_FILE_TYPE} says")
    matrices = [one for one in reader.tensors if one.name.startswith("blk.") and len(one.shape) > 1]
    weights: Counter[str] = Counter()
    for one in matrices:
        if one.tensor_type.name not in _KEPT:
            weights[one.tensor_type.name] += math.prod(map(int, one.shape))
    if claim is None or not weights or claim.startswith(_KEPT):
        return ()
    short = any(int(one.shape[0]) % _BLOCK for one in matrices)
    allowed = _list_bases(claim, short=short)
    most, count = weights.most_common(1)[0]
    if most not in allowed:
        words = f"{100 * count / weights.total():.0f} % of the weights in its layers are {most}"
        # Whoever makes a mixture of their own may leave the metadata as they were, or have no word for it there.
        return (Contradiction(where=path.name, said=f"{said} {claim}", stored=words, serious=named),)

    def count_bits(kind: Any) -> float:
        entries, size = GGML_QUANT_SIZES[kind]
        return 8 * float(size) / float(entries)

    if not claim.startswith("Q"):  # mixtures of fewer bits have types below their own
        return ()
    least = min(count_bits(one.tensor_type) for one in matrices if one.tensor_type.name in allowed)
    heads = [one for one in reader.tensors if one.name in ("token_embd.weight", "output.weight")]
    held = [one for one in (*heads, *matrices) if one.tensor_type.name not in _KEPT]
    low = [one for one in held if count_bits(one.tensor_type) < least]
    return tuple(
        Contradiction(
            where=one.name,
            said=f"{said} {claim}",
            stored=f"it is {one.tensor_type.name}, of fewer bits than any tensor of that mixture",
            serious=False,
        )
        for one in low[:_LISTED]
    )


def _find_claims(stem: str, names: Iterable[str]) -> list[str]:
    ordered = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    found = re.findall(rf"(?<![A-Za-z0-9])(?:{ordered}|Q[2-6]_K)(?![A-Za-z0-9_])", stem, re.IGNORECASE)
    return list(dict.fromkeys(name.upper() for name in found))


def _list_bases(claim: str, *, short: bool) -> tuple[str, ...]:
    if claim in FLOATS:
        return tuple(FLOATS)
    bases = _BASES.get(claim, (claim,))
    if not short:
        return bases
    fallbacks = [_SHORT_ROWS.get(base, _LOW_SHORT_ROWS if "K" in base or base[0] == "I" else ()) for base in bases]
    # Rows that are no multiple of 32 either stay as they were.
    return (*bases, *(name for names in fallbacks for name in names), "F16")
