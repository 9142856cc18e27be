"""The decoder layers of a model: their matrices, seen as (out, in) whatever the layout, and their calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from sw_audit.checkpoint.effective import Probed, ProbedMemory, find_sizes, is_opaque
from sw_audit.checkpoint.experts import FusedExperts
from sw_audit.errors import CheckpointError


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight matrix `W` of `y = W @ x`, where it lives in the model.

    Attributes:
        parameter: Qualified name, such as `model.layers.2.mlp.down_proj.weight`.
        tensor: The parameter as the module stores it: (out, in), or (in, out) if transposed. Without data (meta)
            where the module does not hold it as one.
        transposed: Whether it is stored (in, out), as Conv1D does.
        expert: Which of the experts that are fused into the parameter, [experts, ., .]; `None` where the
            parameter is this one matrix.
        probed: How it is read where the module keeps it packed; such a matrix has a weight that can be read, but
            writing into it changes nothing.
        paged: Reads it to the CPU, in the layout of `tensor`, where it is in memory only while it is used.
    """

    parameter: str
    tensor: torch.nn.Parameter
    transposed: bool
    expert: int | None = field(default=None, kw_only=True)
    probed: Probed | None = field(default=None, kw_only=True)
    paged: Callable[[], Tensor] | None = field(default=None, kw_only=True)

    @property
    def weight(self) -> torch.Tensor:
        """The matrix as (out, in); a view, so writing into it changes the model, unless it is probed."""
        if self.probed is not None:
            return self.probed.read()
        if self.paged is not None:
            stored = self.paged()
        else:
            stored = self.tensor.detach() if self.expert is None else self.tensor.detach()[self.expert]
        return stored.T if self.transposed else stored

    @property
    def shape(self) -> tuple[int, int]:
        """How many (out, in) there are; known also while the weights are not in memory."""
        rows, columns = self.tensor.shape[-2:]
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def device(self) -> torch.device:
        """Where the matrix is when it is read."""
        if self.paged is not None:
            return torch.device("cpu")
        return self.tensor.device if self.probed is None else self.probed.device

    def read_scalars(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Read some scalars, [scalars], by int64 indices; a copy, cheaper than `weight` where it is probed."""
        if self.probed is not None:
            return self.probed.read_scalars(rows, columns).clone()
        return self.weight[rows, columns].clone()


@dataclass(frozen=True, eq=False)
class DownProjection(Matrix):
    """The last matrix of an MLP, or of one of its experts, which writes into the residual stream.

    Attributes:
        layer: Decoder layer, counted from 0.
        module: The module that multiplies by the matrix; forward hooks on it see `x` and `y`. Some families
            call it with [batch, tokens, channels], some (OPT) with [batch * tokens, channels]; some (Falcon)
            go on to add into its output, so that a hook must copy what it keeps. Where experts are fused it is
            the module that holds them all, and hooks on it see what enters and leaves all of them together.
        fused: The experts that this one is fused with, if it is.
        expert_module: The module of the one expert it belongs to, where each has its own; it is called with the
            tokens that are routed to it and no others.
    """

    layer: int
    module: torch.nn.Module
    fused: FusedExperts | None = field(default=None, kw_only=True)
    expert_module: torch.nn.Module | None = field(default=None, kw_only=True)

    @property
    def bias(self) -> torch.Tensor | None:
        """What is added to `W @ x` [out], if anything."""
        if self.fused is not None and self.expert is not None:
            return self.fused.bias(self.fused.down, self.expert)
        bias = getattr(self.module, "bias", None)
        return bias.detach() if isinstance(bias, torch.Tensor) else None


@dataclass(frozen=True, eq=False)
class DecoderLayer:
    """One layer of the decoder.

    Attributes:
        index: Counted from 0.
        name: Qualified name of the module, such as `model.layers.0`.
        module: The layer.
        down_projections: The one of a dense MLP; where there are experts, that of what all tokens share, if
            anything, and one per expert; none where there is no MLP.
        matrices: Every matrix of the layer that multiplies activations, in the order of definition, fused
            experts last; a matrix shared with an embedding or an earlier layer is not listed again.
        bring_in: Brings the weights into memory where they are there only while they are used; see `present`.
    """

    index: int
    name: str
    module: torch.nn.Module
    down_projections: tuple[DownProjection, ...]
    matrices: tuple[Matrix, ...]
    bring_in: Callable[[], AbstractContextManager[DecoderLayer]] | None = field(
        default=None, kw_only=True, repr=False
    )

    def present(self) -> AbstractContextManager[DecoderLayer]:
        """Have the weights in memory inside of a `with`, however often the layer runs there.

        Yields:
            The layer with matrices that can be written to. Of a layer that is in memory anyway, itself.
        """
        return nullcontext(self) if self.bring_in is None else self.bring_in()

    @property
    def down_projection(self) -> DownProjection | None:
        """The down-projection of a dense MLP; `None` where there are experts, or no MLP."""
        return self.down_projections[0] if len(self.down_projections) == 1 and not self.keeps_experts else None

    @property
    def experts(self) -> tuple[DownProjection, ...]:
        """The down-projections of the experts that tokens are routed to, in their order; none of a dense MLP."""
        return tuple(
            down for down in self.down_projections if down.fused is not None or down.expert_module is not None
        )

    @property
    def keeps_experts(self) -> bool:
        """Whether the MLP, or a part of it, consists of experts."""
        return bool(self.experts)

    @property
    def fused_experts(self) -> tuple[FusedExperts, ...]:
        """The modules in which the down-projections of several experts are one parameter."""
        fused = (down.fused for down in self.down_projections if down.fused is not None)
        return tuple(dict.fromkeys(fused))

    def find_matrix(self, parameter: str, expert: int | None) -> Matrix | None:
        """Return the layer's matrix of that qualified name and expert, if it has one.

        Raises:
            CheckpointError: If the parameter is the layer's, but it has no such expert.
        """
        matrix = self._matrices.get((parameter, expert))
        if matrix is None and parameter in self._experts:
            asked = f"expert {expert} of {parameter}"
            count = self._experts[parameter]
            found = f"it fuses {count} experts" if count else "it is no parameter that fuses experts"
            remedy = "count experts from 0, and name one where they are fused, only there"
            raise CheckpointError(asked, found, remedy)
        return matrix

    @cached_property
    def _matrices(self) -> dict[tuple[str, int | None], Matrix]:
        return {(matrix.parameter, matrix.expert): matrix for matrix in self.matrices}

    @cached_property
    def _experts(self) -> dict[str, int]:
        fused = Counter(matrix.parameter for matrix in self.matrices if matrix.expert is not None)
        return {matrix.parameter: fused[matrix.parameter] for matrix in self.matrices}


def list_projections(
    root: torch.nn.Module, prefix: str, dtype: torch.dtype = torch.float32, memory: ProbedMemory | None = None
) -> Iterator[tuple[Matrix, torch.nn.Module]]:
    """Yield every matrix below a module together with the module that multiplies by it.

    What a library has packed, or put an adapter on, is one matrix, whatever modules it is made of.
    The module itself is included; `prefix` is its qualified name. Who reads weights of opaque modules gives the
    model's dtype, which they are probed with; `memory` keeps probed matrices.
    """
    memory = memory or ProbedMemory()
    within = ""
    for name, module in root.named_modules(prefix=prefix):
        if within and name.startswith(within):
            continue
        if is_opaque(module):
            within = f"{name}."
            shape = find_sizes(module) or (0, 0)
            bare = torch.nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)
            probed = Probed(module, shape, dtype, memory)
            yield Matrix(f"{name}.weight", bare, transposed=False, probed=probed), module
            continue
        conv1d = is_conv1d(module)
        if not conv1d and not isinstance(module, torch.nn.Linear):
            continue
        weight = module._parameters.get("weight")
        if weight is not None and weight.ndim == 2 and weight.is_floating_point():
            yield Matrix(f"{name}.weight", weight, transposed=conv1d), module


def is_conv1d(module: torch.nn.Module) -> bool:
    """Tell whether a module is GPT-2's Conv1D, a Linear that stores its weight (in, out)."""
    return isinstance(module, Conv1D)


@dataclass(frozen=True)
class LayerCall:
    """Everything that a decoder layer is called with but the hidden states: masks, positions, ..."""

    positional: tuple[Any, ...]
    named: dict[str, Any]
    by_name: bool

    def __call__(self, forward: Callable[..., Any], hidden: Tensor) -> Any:
        """Call a layer, or what stands in its place, with other hidden states."""
        if self.by_name:
            return forward(*self.positional, hidden_states=hidden, **self.named)
        return forward(hidden, *self.positional, **self.named)


def split_call(positional: tuple[Any, ...], named: dict[str, Any]) -> tuple[Tensor, LayerCall]:
    """Split the arguments of a call into the hidden states and all others."""
    if positional:
        return positional[0], LayerCall(positional[1:], named, by_name=False)
    rest = dict(named)
    return rest.pop("hidden_states"), LayerCall((), rest, by_name=True)


def take_states(output: Any) -> Tensor:
    """Return the hidden states of what a decoder layer returns: a tensor, or a tuple that begins with it."""
    states: Tensor = output if isinstance(output, Tensor) else output[0]
    return states


def copy_rows(states: Tensor) -> Tensor:
    """Copy what a module of a model saw or gave on one prompt, one row per token.

    A copy, for some families go on to add into it (Falcon's residual stream).

    Args:
        states: Any floating dtype, [1, tokens, channels]; [tokens, channels] where the batch is flattened (OPT).

    Returns:
        Float32 on the CPU, [tokens, channels].
    """
    return states.detach().reshape(-1, states.shape[-1]).to("cpu", torch.float32, copy=True)
