"""Recognizes a rotated checkpoint: from what its files say, or else, as a hint, from its weights.

After a random rotation of the residual stream no channel is privileged. Let `M = W.T @ W` be summed over matrices
`W` that read the stream. Its diagonal is the energy with which each channel is read. Under a random orthogonal `Q`
the diagonal of `Q.T @ M @ Q` varies over channels, in expectation, by

    2 / (h (h + 2)) * (tr(M^2) - tr(M)^2 / h)        (h: width of the stream)

and the traces do not depend on `Q`. So the observed variance over this one is about 1 in a rotated model, with a
standard deviation of about `sqrt(2 / h)`. Measured, with the gains of the norms folded in: SmolLM2-135M-Instruct
123, and 0.99 once rotated; the specimen 2.3, and 1.0 or 0.95 (Haar, Hadamard); the control 2.7, and 1.1 or 0.7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.locate.probe import probe_prompt
from sw_audit.locate.weight_norms import find_inward_matrices
from sw_audit.record.location import Location, Outcome, Rotation

_DEVIATIONS = 4.0
"""So many standard deviations above 1 the ratio of a rotated model may be."""
_TRAINED = 1.5
"""A trained matrix has at least so many times the spread of squared singular values that a random one has (1.9 in
the control, 2.1 in the specimen, 5.7 in SmolLM2): random weights have no privileged channels either."""
_ROWS = 8
"""Rows that are looked at, per channel."""


def recognize_rotation(checkpoint: Checkpoint, location: Location) -> Location:
    """Return a location with whether the checkpoint is rotated: declared by its files, or as its weights look.

    Weights hint at it where no massive activation was found, all norms have equal gains (rotating needs them
    folded into the matrices), and matrices that lead into MLPs read all channels alike though they are trained.

    Raises:
        CheckpointError: If the residual stream is not finite on the locating prompt.
    """
    if checkpoint.rotation is not None:
        return location.model_copy(update={"rotation": Rotation(declared=True, because=checkpoint.rotation)})
    if location.outcome is not Outcome.NONE or not _has_equal_gains(checkpoint, location):
        return location
    reading = _read_inward(checkpoint.layers[: location.layers_seen])
    if reading is None:
        return location
    ratio, spread = measure_privilege(reading)
    limit = 1 + _DEVIATIONS * math.sqrt(2 / reading.shape[1])
    if ratio > limit or spread < _TRAINED:
        return location
    because = (
        f"all norms have equal gains, and its channels differ {ratio:.2g} times as much as by a random rotation "
        f"(at most {limit:.2g})"
    )
    return location.model_copy(update={"rotation": Rotation(declared=False, because=because)})


def measure_privilege(reading: Tensor) -> tuple[float, float]:
    """Measure how far the channels of a matrix [rows, channels] differ, and how far from random it is.

    Returns:
        The variance of the channels' energies over that under a random rotation; and the relative variance of the
        squared singular values over that of a random matrix of this shape (channels / rows).
    """
    rows, width = reading.shape
    product = (reading.T @ reading).double()  # [width, width]
    trace, square = float(product.trace()), float(product.square().sum())
    chance = 2 / (width * (width + 2)) * (square - trace**2 / width)
    observed = float(product.diagonal().var(correction=0))
    if not trace or chance <= 0:
        return math.inf, 0.0
    return observed / chance, (width * square / trace**2 - 1) / (width / rows)


def _has_equal_gains(checkpoint: Checkpoint, location: Location) -> bool:
    """Tell whether each norm of the layers has one gain for all channels; looked at while the layers run."""
    width, equal = checkpoint.identity.hidden_size, list[bool]()

    def look(module: nn.Module, _: object) -> None:
        gain = module._parameters["weight"]
        if gain is not None:
            equal.append(float(gain.max() - gain.min()) <= 1e-3 * float(gain.abs().max()))

    with ExitStack() as stack:
        for layer in checkpoint.layers:
            for module in layer.module.modules():
                gain = module._parameters.get("weight")
                if gain is not None and gain.shape == (width,):
                    stack.callback(module.register_forward_pre_hook(look).remove)
        probe_prompt(checkpoint, location.token_ids, location.layers_seen)
    return all(equal)


def _read_inward(layers: Sequence[DecoderLayer]) -> Tensor | None:
    """Read rows of matrices that lead into MLPs, float32 on the CPU, [rows, hidden], from evenly spaced layers."""
    chosen = [layer for layer in layers if layer.down_projection is not None]
    chosen = chosen[:: max(1, len(chosen) // 4)]
    matrices = [
        matrix
        for layer in chosen
        for matrix in find_inward_matrices(layer, layer.down_projections[0])
        if not matrix.weight.is_meta
    ]
    if not matrices:
        return None
    width = matrices[0].shape[1]
    step = max(1, sum(matrix.shape[0] for matrix in matrices) // (_ROWS * width))
    return torch.cat([matrix.weight[::step].float().cpu() for matrix in matrices])
