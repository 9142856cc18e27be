"""Dtypes and suffixes of the tensors against what config.json says of quantization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sw_audit.checkpoint.formats import find_quantization, name_method
from sw_audit.checkpoint.headers import FLOATS
from sw_audit.checkpoint.stored import Shape, StoredTensors
from sw_audit.record.weights import Flaw


@dataclass(frozen=True)
class Packing:
    """How a library names what it makes of one weight.

    Attributes:
        codes: Suffix of the tensor with the codes.
        scales: Suffix of the one with the scales; empty where it has none of its own.
        methods: The `quant_method` of configurations that go with it.
        needed: Whether codes without scales are of no use; some formats have codes under a plain name.
    """

    codes: str
    scales: str
    methods: tuple[str, ...]
    needed: bool = True


PACKINGS: tuple[Packing, ...] = (
    Packing(".qweight", ".scales", ("gptq", "awq", "auto-round")),
    Packing(".weight_packed", ".weight_scale", ("compressed-tensors", "auto-round")),
    Packing("._weight_qdata", "._weight_scale", ("torchao",)),
    Packing(".weight._data", ".weight._scale", ("quanto",)),
    Packing("_blocks", "_scales", ("mxfp4",)),
    Packing(".W_q", ".scale", ("hqq",), needed=False),
    Packing(".compressed", "", ("compressed-tensors",), needed=False),
    Packing(".weight", ".weight.absmax", ("bitsandbytes",), needed=False),
    Packing(".weight", ".SCB", ("bitsandbytes",), needed=False),
    Packing(".weight", ".weight_scale_inv", ("fp8",), needed=False),
    Packing(".weight", ".weight_scale", ("compressed-tensors", "fbgemm_fp8", "fp8"), needed=False),
)
"""The packings, those with names of their own first."""

_PACKED = tuple(one.codes for one in PACKINGS if one.codes != ".weight")
# Methods whose checkpoints always hold codes; of others nothing is claimed.
_CODED = {"gptq", "awq", "auto-round", "compressed-tensors", "torchao", "quanto", "mxfp4", "hqq", "bitsandbytes"}
_CODED |= {"fp8", "fbgemm_fp8"}
# Integers that are no codes: shapes, states, masks.
_ASIDE = ("weight_shape", "weight_format", "g_idx", "position_ids", "num_batches_tracked")


def hold_against_config(config: Mapping[str, Any], stored: StoredTensors) -> Iterator[Flaw]:
    """Hold dtypes and suffixes against config.json.

    Args:
        config: What it says.
        stored: What the files hold.
    """
    quantization = find_quantization(config)
    codes = [name for name, shape in stored.shapes.items() if is_code(name, shape)]
    if quantization is None:
        for name in codes:
            found = f"it is stored as {stored.shapes[name].dtype}, and config.json has no quantization_config"
            yield Flaw(kind="codes-without-config", where=name, found=found)
        return
    method = name_method(quantization)
    if not is_known(method):
        found = f"transformers knows no quant_method {method!r}, and would read the tensors as they are"
        yield Flaw(kind="unknown-method", where="config.json", found=found)
        return
    yield from _expect_codes(method, quantization, codes, stored)
    yield from _expect_scales(stored)
    yield from _hold_bits(method, quantization, stored)
    yield from _list_experts(method, codes, stored)


def is_known(method: str) -> bool:
    """Tell whether transformers knows a method."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    # It keeps bitsandbytes under two names of its own.
    return method == "bitsandbytes" or method in AUTO_QUANTIZATION_CONFIG_MAPPING


def is_code(name: str, shape: Shape) -> bool:
    """Tell whether a tensor holds codes and not numbers."""
    if name.endswith(_ASIDE) or shape.file.endswith(".gguf"):
        return False
    if name.endswith(_PACKED):
        return True
    return name.endswith(".weight") and len(shape.shape) > 1 and shape.dtype not in FLOATS


def find_packing(name: str, stored: StoredTensors) -> tuple[str, Packing] | None:
    """Find the scales of a tensor of codes: their name, and how the two are packed."""
    for packing in PACKINGS:
        if packing.scales and name.endswith(packing.codes):
            scales = name.removesuffix(packing.codes) + packing.scales
            if scales in stored.shapes:
                return scales, packing
    return None


def _expect_codes(
    method: str, quantization: Mapping[str, Any], codes: list[str], stored: StoredTensors
) -> Iterator[Flaw]:
    """Where codes are promised there have to be some, of the kind that the method makes."""
    dense = quantization.get("format") == "dense" or not stored.safe
    if method not in _CODED or dense or not stored.shapes:
        return
    fitting = {packing.codes for packing in PACKINGS if method in packing.methods}
    if not codes:
        found = f"config.json says {method}, and every tensor is stored as plain numbers"
        yield Flaw(kind="config-without-codes", where="config.json", found=found)
    elif not any(name.endswith(tuple(fitting)) for name in codes):
        found = f"config.json says {method}, and no tensor ends in {' or '.join(sorted(fitting))}, but {codes[0]}"
        yield Flaw(kind="config-without-codes", where="config.json", found=found)


def _expect_scales(stored: StoredTensors) -> Iterator[Flaw]:
    """Codes whose scales are not there would be decoded with made-up ones."""
    for packing in PACKINGS:
        if not packing.needed:
            continue
        named = [name for name in stored.shapes if name.endswith(packing.codes)]
        for name in named:
            scales = name.removesuffix(packing.codes) + packing.scales
            if scales not in stored.shapes:
                yield Flaw(kind="missing-tensor", where=scales, found=f"the scales of {name} are missing")


def _hold_bits(method: str, quantization: Mapping[str, Any], stored: StoredTensors) -> Iterator[Flaw]:
    """Codes, scales and the configuration have to agree on how many bits and how large a group there are."""
    bits, group = quantization.get("bits"), quantization.get("group_size")
    # Libraries that set bits module by module say so under these keys.
    mixed = any(quantization.get(key) for key in ("dynamic", "extra_config", "modules_in_block_to_quantize"))
    if method not in ("gptq", "awq") or not isinstance(bits, int) or mixed:
        return
    for name, shape in stored.shapes.items():
        scales = stored.shapes.get(name.removesuffix(".qweight") + ".scales")
        if not name.endswith(".qweight") or shape.dtype != "I32" or scales is None or len(shape.shape) != 2:
            continue
        # GPTQ packs along the input, AWQ along the output; scales are (groups, outputs) in both.
        rows, columns = shape.shape
        per = 32 / bits
        inputs, outputs = (rows * per, columns) if method == "gptq" else (rows, columns * per)
        groups = -(-inputs // group) if isinstance(group, int) and group > 0 else 1
        if scales.shape != (groups, outputs):
            found = (
                f"shape {list(shape.shape)} and scales {list(scales.shape)} do not go with bits = {bits}, "
                f"group_size = {group}"
            )
            yield Flaw(kind="mismatched-tensor", where=name, found=found)


def _list_experts(method: str, codes: list[str], stored: StoredTensors) -> Iterator[Flaw]:
    """Tell of experts that are stored as plain numbers beside quantized weights."""
    experts = [name for name, shape in stored.shapes.items() if "experts" in name and len(shape.shape) > 1]
    plain = [name for name in experts if stored.shapes[name].dtype in FLOATS and not name.endswith("bias")]
    if codes and plain and not any("experts" in name for name in codes):
        found = f"{method} left the experts as they were: {len(plain)} tensors such as this one are plain numbers"
        yield Flaw(kind="unquantized-experts", where=plain[0], found=found, serious=False)
