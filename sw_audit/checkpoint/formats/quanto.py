"""quanto, which is refused: transformers cannot read back what that library stores."""

from __future__ import annotations

from sw_audit.checkpoint.formats.format import NOT_READ_BACK, Format, Packing, register


@register
class Quanto(Format):
    """Codes and scales of quanto, known so that they are told from plain weights."""

    method = "quanto"
    obstacle = NOT_READ_BACK
    packings = (Packing(".weight._data", ".weight._scale"),)
    module_packages = ("optimum.",)
    loggers = ("optimum",)
