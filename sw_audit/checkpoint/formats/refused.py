"""HQQ and quanto, which are refused: transformers cannot read back what these libraries store."""

from __future__ import annotations

from sw_audit.checkpoint.formats.format import Format, Packing, register


@register
class Hqq(Format):
    """Codes and scales of HQQ, known so that they are told from plain weights."""

    method = "hqq"
    obstacle = "transformers cannot read back what that library stores"
    packings = (Packing(".W_q", ".scale", needs_scales=False),)
    module_packages = ("hqq.",)
    loggers = ("hqq",)


@register
class Quanto(Format):
    """Codes and scales of quanto, likewise."""

    method = "quanto"
    obstacle = Hqq.obstacle
    packings = (Packing(".weight._data", ".weight._scale"),)
    module_packages = ("optimum.",)
    loggers = ("optimum",)
