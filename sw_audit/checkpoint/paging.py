"""A model whose layers are in memory only while they run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.checkpoint.lazy_tensor import LazyTensor, list_sources, make_entry_real, make_real
from sw_audit.checkpoint.lint_values import refuse_non_finite
from sw_audit.checkpoint.mapped import MappedFiles
from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection, Matrix, list_projections
from sw_audit.policy.model_policy import ModelPolicy


@dataclass(frozen=True, eq=False)
class Slot:
    """A place for a tensor in a model.

    Attributes:
        module: The module that holds it.
        key: Its name there.
        name: Its qualified name.
        source: How it is made from tensors of the files.
        empty: What is there while it is not in memory: a tensor on the meta device.
    """

    module: nn.Module
    key: str
    name: str
    source: LazyTensor
    empty: Tensor

    def put(self, tensor: Tensor) -> None:
        """Put a tensor there."""
        if isinstance(tensor, nn.Parameter):
            self.module._parameters[self.key] = tensor
        else:
            self.module._buffers[self.key] = tensor


def empty_model(model: nn.Module) -> list[Slot]:
    """Take every `LazyTensor` tensor out of a model and leave an empty place; tied tensors stay tied.

    Args:
        model: The model, whose parameters and persistent buffers are `LazyTensor`.

    Returns:
        The places.
    """
    slots, made = [], dict[int, Tensor]()
    for prefix, module in model.named_modules():
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                if isinstance(tensor, LazyTensor):
                    if id(tensor) not in made:
                        bare = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
                        made[id(tensor)] = (
                            nn.Parameter(bare, requires_grad=False) if held is module._parameters else bare
                        )
                    name = f"{prefix}.{key}" if prefix else key
                    slots.append(Slot(module, key, name, tensor, made[id(tensor)]))
    for slot in slots:
        slot.put(slot.empty)
    return slots


@dataclass
class Pager:
    """Brings the parts of a model into memory when they run, and lets them go right after.

    A decoder layer comes as a whole. What is outside of the layers is mapped from the start, and read as far as
    it is looked at: of an embedding, the rows of the prompt's tokens; of the head, nothing if nobody calls it.

    Attributes:
        files: Where the tensors are.
        slots: Where they go.
        policy: The model, for complaints.
        device: Where it runs.
        on_layer: Told the index of each decoder layer that has run.
    """

    files: MappedFiles
    slots: Sequence[Slot]
    policy: ModelPolicy
    device: torch.device
    on_layer: Callable[[int], None] = lambda _: None
    _called: set[nn.Module] = field(default_factory=set)

    def attach(self, layers: Sequence[DecoderLayer]) -> tuple[DecoderLayer, ...]:
        """Put hooks on the model, for good.

        Args:
            layers: Its decoder layers.

        Returns:
            The layers, with matrices that can be read while they are not in memory.
        """
        by_module: defaultdict[nn.Module, list[Slot]] = defaultdict(list)
        for slot in self.slots:
            by_module[slot.module].append(slot)
        for layer in layers:
            inside = {module: by_module.pop(module, []) for module in layer.module.modules()}
            self._attach_layer(layer, inside)
        for module, slots in by_module.items():
            self._attach_other(module, slots)
        sources = {slot.name: slot.source for slot in self.slots}
        return tuple(self._make_readable(layer, sources) for layer in layers)

    def _attach_other(self, module: nn.Module, slots: list[Slot]) -> None:
        """Bring in what is outside of the layers: for good, where that reads nothing yet."""
        as_stored = self.device.type == "cpu" and all(isinstance(slot.source.origin, str) for slot in slots)
        # Models ask where their embedding is before they call it.
        if as_stored or isinstance(module, nn.Embedding):
            self._bring_in(slots, module, ())
        else:
            module.register_forward_pre_hook(partial(self._bring_in, slots))
            module.register_forward_hook(partial(self._let_go, slots))

    def _attach_layer(self, layer: DecoderLayer, inside: Mapping[nn.Module, list[Slot]]) -> None:
        slots = [slot for held in inside.values() for slot in held]
        watched = {module for _, module in list_projections(layer.module, "")}
        others = [slot for slot in slots if slot.module not in watched]

        def begin(module: nn.Module, inputs: Any) -> None:
            self._called.clear()
            self._bring_in(slots, module, inputs)
            self._check(others)

        def end(module: nn.Module, inputs: Any, output: Any) -> None:
            self._check(slot for slot in slots if slot.module in watched - self._called)
            self._let_go(slots, module, inputs, output)
            self.on_layer(layer.index)

        layer.module.register_forward_pre_hook(begin)
        for module in watched:
            module.register_forward_hook(partial(self._see_product, inside[module]))
        layer.module.register_forward_hook(end)

    def _see_product(self, slots: Sequence[Slot], module: nn.Module, _: Any, output: Any) -> None:
        # A weight that is not finite makes its whole row of the product so: nothing else need be looked at.
        if not isinstance(output, Tensor):
            return
        self._called.add(module)
        if not bool(output.isfinite().all()):
            self._check(slots)

    def _check(self, slots: Iterable[Slot]) -> None:
        for slot in slots:
            held: Any = getattr(slot.module, slot.key)
            if slot.key in slot.module._parameters:
                refuse_non_finite(slot.name, held, self.policy)

    def _bring_in(self, slots: Sequence[Slot], _: nn.Module, __: Any) -> None:
        mapped = self.files.map_tensors(name for slot in slots for name in list_sources(slot.source))
        for slot in slots:
            tensor = make_real(slot.source, mapped.__getitem__).to(self.device)
            slot.put(nn.Parameter(tensor, requires_grad=False) if isinstance(slot.empty, nn.Parameter) else tensor)

    def _let_go(self, slots: Sequence[Slot], _: nn.Module, __: Any, ___: Any) -> None:
        for slot in slots:
            slot.put(slot.empty)

    def _make_readable(self, layer: DecoderLayer, sources: Mapping[str, LazyTensor]) -> DecoderLayer:
        def read(parameter: str, expert: int | None) -> Tensor:
            source = sources[parameter]
            if expert is None:
                return make_real(source, self.files.map_tensor)
            return make_entry_real(source, expert, self.files.map_tensor)

        return DecoderLayer(
            layer.index,
            layer.name,
            layer.module,
            tuple(_PagedDown(read=read, **_list_fields(one)) for one in layer.down_projections),
            tuple(_PagedMatrix(read=read, **_list_fields(one)) for one in layer.matrices),
        )


def _list_fields(one: Matrix) -> dict[str, Any]:
    return {part.name: getattr(one, part.name) for part in fields(one)}


@dataclass(frozen=True, eq=False)
class _PagedMatrix(Matrix):
    """A matrix that is read from its file when it is looked at; only the pages that are looked at are."""

    read: Callable[[str, int | None], Tensor] = field(kw_only=True)

    @property
    def weight(self) -> Tensor:
        """The matrix as (out, in)."""
        stored = self.read(self.parameter, self.expert)
        return stored.T if self.transposed else stored


@dataclass(frozen=True, eq=False)
class _PagedDown(_PagedMatrix, DownProjection):
    """A down-projection, likewise."""
