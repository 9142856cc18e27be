"""HQQ, which is refused: transformers cannot read back what that library stores."""

from __future__ import annotations

from sw_audit.checkpoint.formats.format import NOT_READ_BACK, Format, Packing, register


@register
class Hqq(Format):
    """Codes and scales of HQQ, known so that they are told from plain weights."""

    method = "hqq"
    obstacle = NOT_READ_BACK
    packings = (Packing(".W_q", ".scale", needs_scales=False),)
    module_packages = ("hqq.",)
    loggers = ("hqq",)
