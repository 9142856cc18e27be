"""Whether a checkpoint says that its weights were rotated: multiplied by orthogonal matrices before rounding.

Rotations (QuaRot, Ashkboos et al. 2024; SpinQuant, Liu et al. 2024) spread every channel over all others. The
model computes the same, and no single channel or scalar carries a super activation any more.
"""

from __future__ import annotations

from typing import Any

from sw_audit.checkpoint.folder import CheckpointFolder

_KEYS = ("transform_config", "rotation_config", "rotation")
"""What compressed-tensors, auto-round and GPTQModel write into `quantization_config`."""


def read_declared_rotation(folder: CheckpointFolder) -> str | None:
    """Say what a checkpoint, or the base of an adapter, declares of a rotation; `None` if it declares none.

    Raises:
        CheckpointError: If the base cannot be found.
    """
    while (base := folder.format.find_base(folder)) is not None:
        folder = CheckpointFolder.require(base)
    for key in _KEYS:
        declared = folder.quantization.get(key)
        if isinstance(declared, dict) and "config_groups" in declared:
            declared = declared["config_groups"]
        if declared:
            return f"`{key}` in its quantization_config says so{_name_kinds(declared)}"
    return None


def _name_kinds(declared: Any) -> str:
    groups = declared.values() if isinstance(declared, dict) else ()
    kinds = {str(group["type"]) for group in groups if isinstance(group, dict) and "type" in group}
    kinds |= {declared} if isinstance(declared, str) else set()
    return f" ({', '.join(sorted(kinds))})" if kinds else ""
