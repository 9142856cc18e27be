"""Plain weights: numbers as they are, whether dense, pruned, 2:4 sparse or merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sw_audit.checkpoint.formats.format import Description, Format, OpenModel, register
from sw_audit.checkpoint.headers import FLOATS
from sw_audit.errors import BrokenWeightsError

if TYPE_CHECKING:
    from sw_audit.checkpoint.folder import CheckpointFolder


@register
class Plain(Format):
    """Weights of which the configuration says nothing."""

    method = "plain"

    def recognizes(self, folder: CheckpointFolder) -> bool:
        """Tell whether the configuration says nothing of quantization."""
        return not folder.quantization

    def inspect(self, folder: CheckpointFolder) -> None:
        """Refuse codes that nothing says how to read: read as numbers they would mean nothing."""
        remedy = "put `quantization_config` back into config.json, or give the checkpoint that it was made from"
        for headers in folder.headers.values():
            for name, header in headers.items():
                if name.endswith("weight") and len(header.shape) > 1 and header.dtype not in FLOATS:
                    found = (
                        f"tensor {name!r} is stored as {header.dtype}, and config.json has no quantization_config"
                    )
                    kind = "codes-without-config"
                    raise BrokenWeightsError(folder.asked, found, remedy, kind=kind, where=name)

    def choose_loading_options(self, folder: CheckpointFolder, config: Any, device: str) -> dict[str, Any]:  # noqa: ARG002
        """Choose nothing: plain weights are loaded where memory is, and moved."""
        return {}

    def describe(self, model: OpenModel) -> Description | None:  # noqa: ARG002
        """Nothing is quantized."""
        return None
