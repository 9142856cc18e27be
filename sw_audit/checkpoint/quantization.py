"""What a checkpoint's configuration says of quantization, held against what is found in the open model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import nn

from sw_audit.checkpoint.effective import is_opaque
from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.formats.format import Description, OpenModel
from sw_audit.checkpoint.formats.patterns import ModulePattern, count_matches, find_left_alone, is_left_out
from sw_audit.checkpoint.matrices import is_conv1d
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.stored import open_stored
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.checkpoint import Contradiction, HeldScalar, QuantizationReport
from sw_audit.record.location import SuperWeight

# Beyond this part of an output, what differs from the product is more than the rounding of a dtype.
_ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-3}
_HALF_ROUNDING = 8e-3
# Down-projections that are tried for what they do to activations where no super weight names one.
_TRIED = 2


@torch.no_grad()
def describe_quantization(
    checkpoint: Checkpoint, policy: ModelPolicy, parent_super_weights: Sequence[SuperWeight] = ()
) -> QuantizationReport | None:
    """Describe how an open checkpoint is quantized, and what became of its parent's super weights.

    Returns:
        `None` if nothing is quantized; of an adapter, what holds of its base.
    """
    folder = CheckpointFolder.require(policy)
    while (base := folder.format.find_base(folder)) is not None:
        folder = CheckpointFolder.require(base)
    opened = _open(checkpoint, folder)
    description = folder.format.describe(opened)
    if description is None:
        return None
    patterns = folder.format.list_patterns(folder.quantization)
    modules = dict(checkpoint.model.named_modules())
    projections = {
        name: module
        for name, module in modules.items()
        if is_opaque(module) or isinstance(module, nn.Linear) or is_conv1d(module)
    }
    stored = {name.rpartition(".")[0] for name in opened.stored.headers}
    error = _measure_error(checkpoint, parent_super_weights)
    because = ""
    if error is not None and error > _ROUNDING.get(checkpoint.model.dtype, _HALF_ROUNDING):
        because = (
            "what enters its modules is rounded as well: on random input their outputs are off by "
            f"{100 * error:.2g} % of what the weights alone give; changing a scalar changes that rounding with it"
        )
    return QuantizationReport(
        method=folder.format.method,
        described=description.words,
        patterns=count_matches(patterns, modules, projections, stored),
        quantized=tuple(description.modules.values()),
        unquantized=tuple(_list_unquantized(opened.parameters, description, patterns, modules)),
        exact=not because,
        because=because,
        super_weights=tuple(_read_held(checkpoint, description, weight) for weight in parent_super_weights),
        contradictions=(*description.contradictions, *_list_left_alone(description, patterns)),
    )


def _open(checkpoint: Checkpoint, folder: CheckpointFolder) -> OpenModel:
    packed: dict[str, nn.Module] = {}
    for name, module in checkpoint.model.named_modules():
        # What an adapter is put on has a name of its own below the adapter's; the adapter's is the model's.
        if is_opaque(module) and ".base_layer" not in name and ".lora_" not in name:
            base = getattr(module, "base_layer", None)
            packed[name] = base if isinstance(base, nn.Module) else module
    parameters = dict.fromkeys(matrix.parameter for layer in checkpoint.layers for matrix in layer.matrices)
    weights = {name: module._parameters.get("weight") for name, module in packed.items()}
    return OpenModel(
        folder=folder,
        stored=open_stored(folder),
        family=checkpoint.model.config.model_type,
        layers=len(checkpoint.layers),
        parameters=tuple(parameters),
        packed=packed,
        plain=frozenset(
            name
            for name, weight in weights.items()
            if weight is not None and type(weight) is nn.Parameter and weight.is_floating_point()
        ),
    )


def _list_left_alone(description: Description, patterns: Sequence[ModulePattern]) -> Iterator[Contradiction]:
    """Yield the modules that are quantized though a pattern leaves them as they are."""
    for name, module in description.modules.items():
        if (pattern := find_left_alone(patterns, name)) is not None:
            said = f"{pattern.key} {pattern.text!r} leaves it as it is"
            bits = "codes" if module.bits is None else f"codes of {module.bits:g} bits"
            yield Contradiction(where=name, said=said, stored=f"it is stored as {bits}")


def _list_unquantized(
    parameters: Iterable[str],
    description: Description,
    patterns: Sequence[ModulePattern],
    modules: Mapping[str, nn.Module],
) -> Iterator[str]:
    """Yield the decoder matrices that are not quantized though no pattern leaves them out."""
    for parameter in parameters:
        name = parameter.removesuffix(".weight")
        module = modules.get(name)
        experts = name.rpartition(".")[0]
        # Experts that are fused in the model may lie apart in the files.
        apart = module is None and any(quantized.startswith(experts) for quantized in description.modules)
        if name not in description.modules and not apart and not is_left_out(patterns, name, module):
            yield parameter


def _read_held(checkpoint: Checkpoint, description: Description, weight: SuperWeight) -> HeldScalar:
    name = weight.parameter.removesuffix(".weight")
    module = description.modules.get(name)
    held = HeldScalar(address=weight.address, module=module, parent=weight.value, value=None)
    try:
        matrix = checkpoint.matrix(weight.parameter, weight.expert)
    except KeyError:
        return held
    rows, columns = matrix.shape
    if weight.row >= rows or weight.column >= columns:
        return held
    indices = [torch.tensor([index], device=matrix.device) for index in (weight.row, weight.column)]
    value = float(matrix.read_scalars(*indices)[0])
    if not math.isfinite(value):
        return held
    scale = None if module is None else description.find_scale(name, weight.row, weight.column, matrix.shape)
    return held.model_copy(update={"value": value, "step": None if scale is None else scale.step(value)})


def _measure_error(checkpoint: Checkpoint, weights: Sequence[SuperWeight]) -> float | None:
    """Measure how far the modules that matter are from their matrices; `None` where none is packed."""
    named = {weight.parameter for weight in weights}
    downs = [down for layer in checkpoint.layers for down in layer.down_projections if down.probed is not None]
    chosen = [down for down in downs if down.parameter in named] or downs[:_TRIED]
    return max((down.probed.measure_error() for down in chosen if down.probed is not None), default=None)
