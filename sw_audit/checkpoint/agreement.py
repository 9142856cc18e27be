"""Dtypes and suffixes of stored tensors held against what config.json says of quantization."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.formats.format import Format, is_code, list_packings
from sw_audit.checkpoint.headers import FLOATS
from sw_audit.checkpoint.stored import StoredTensors
from sw_audit.record.weights import Flaw


def compare_with_config(folder: CheckpointFolder, stored: StoredTensors) -> Iterator[Flaw]:
    """Yield where tensors are not those that the quantization of config.json makes."""
    known, settings = folder.format, folder.quantization
    codes = [name for name, header in stored.headers.items() if is_code(name, header)]
    if not settings:
        for name in codes:
            found = f"it is stored as {stored.headers[name].dtype}, and config.json has no quantization_config"
            yield Flaw(kind="codes-without-config", where=name, found=found)
        return
    if not any(name in AUTO_QUANTIZATION_CONFIG_MAPPING for name in (*known.names_in_transformers, known.method)):
        found = f"transformers knows no quant_method {known.method!r}, and would read the tensors as they are"
        yield Flaw(kind="unknown-method", where="config.json", found=found)
        return
    if settings.get("format") != "dense" and stored.all_safetensors and stored.headers:
        yield from _expect_codes(known, codes)
    yield from _expect_scales(stored)
    yield from known.lint_shapes(settings, stored.headers)
    yield from _list_experts(known, codes, stored)


def _expect_codes(known: Format, codes: Sequence[str]) -> Iterator[Flaw]:
    """Where codes are promised there have to be some, of the kind that the method makes."""
    fitting = tuple(sorted({packing.codes for packing in known.packings}))
    if not fitting:
        return
    if not codes:
        found = f"config.json says {known.method}, and every tensor is stored as plain numbers"
        yield Flaw(kind="config-without-codes", where="config.json", found=found)
    elif not any(name.endswith(fitting) for name in codes):
        found = f"config.json says {known.method}, and no tensor ends in {' or '.join(fitting)}, but {codes[0]}"
        yield Flaw(kind="config-without-codes", where="config.json", found=found)


def _expect_scales(stored: StoredTensors) -> Iterator[Flaw]:
    """Codes whose scales are not there would be decoded with made-up ones."""
    for packing in list_packings():
        if not packing.needs_scales:
            continue
        for name in [name for name in stored.headers if name.endswith(packing.codes)]:
            scales = name.removesuffix(packing.codes) + packing.scales
            if scales not in stored.headers:
                yield Flaw(kind="missing-tensor", where=scales, found=f"the scales of {name} are missing")


def _list_experts(known: Format, codes: Sequence[str], stored: StoredTensors) -> Iterator[Flaw]:
    """Tell of experts that are stored as plain numbers beside quantized weights."""
    experts = [name for name, header in stored.headers.items() if "experts" in name and len(header.shape) > 1]
    plain = [name for name in experts if stored.headers[name].dtype in FLOATS and not name.endswith("bias")]
    if codes and plain and not any("experts" in name for name in codes):
        count = f"{len(plain)} tensors such as this one are plain numbers"
        found = f"{known.method} left the experts as they were: {count}"
        yield Flaw(kind="unquantized-experts", where=plain[0], found=found, serious=False)
