"""MXFP4: experts in codes of 4 bits, 32 of which share a power of two (gpt-oss); opened dequantized."""

from __future__ import annotations

from sw_audit.checkpoint.formats.format import (
    ACCELERATE,
    Description,
    Format,
    OpenModel,
    Packing,
    count_dtypes,
    register,
)
from sw_audit.record.checkpoint import QuantizedModule


@register
class Mxfp4(Format):
    """Blocks of codes and their exponents."""

    method = "mxfp4"
    packages = (ACCELERATE,)
    extra = "fp8"
    dequantized = True
    packings = (Packing("_blocks", "_scales", exponents=True),)

    def describe(self, model: OpenModel) -> Description | None:
        """Describe what the files say, for nothing of it is left in the model."""
        headers = model.stored.headers
        names = [name.removesuffix("_blocks") for name in headers if name.endswith("_blocks")]
        modules = {name: QuantizedModule(module=name, bits=4, group=32) for name in names}
        words = count_dtypes(header.dtype for header in headers.values())
        return Description(modules, words, lambda *_: None)
