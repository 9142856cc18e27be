"""A model whose layers are in memory only while they run.

accelerate's hooks are not used. They take tensors by the names of the files, so that experts that transformers
stacks when it loads are left without data; transformers' own offload writes those to disk a second time. On a
dense model, where both work, this is the faster one (tests/benchmarks).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.lazy_tensor import LazyTensor, list_sources, make_entry_real, make_real
from sw_audit.checkpoint.lint_values import refuse_non_finite
from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection, Matrix, list_projections
from sw_audit.policy.model_policy import ModelPolicy


class UnknownDtypeError(Exception):
    """A tensor in a dtype that cannot be mapped."""


class MappedFiles:
    """The tensors of safetensors files, mapped into memory: a page is read when it is first looked at.

    Nothing is copied: what is returned are views of the files. A file is opened anew for each call, for with the
    last view the mapping goes, and with it every page that was looked at.

    Args:
        folder: The checkpoint; a tensor in several of its files is taken from the last.
    """

    def __init__(self, folder: CheckpointFolder) -> None:
        self.folder = folder
        self._files = {name: path for path in folder.weight_files for name in folder.headers[path.name]}

    def list_lazy(self) -> dict[str, LazyTensor]:
        """Let a tensor without data stand for each one.

        Raises:
            UnknownDtypeError: If torch has none of its dtype.
        """
        tensors = self.map_tensors(self._files)
        return {name: LazyTensor.of(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()}

    def map_tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Map tensors as they are stored; writing into one does not change the file.

        Raises:
            UnknownDtypeError: If torch has none of its dtype.
        """
        by_file: defaultdict[Path, list[str]] = defaultdict(list)
        for name in dict.fromkeys(names):
            by_file[self._files[name]].append(name)
        tensors: dict[str, Tensor] = {}
        for path, inside in by_file.items():
            with safe_open(path, framework="pt") as file:
                for name in inside:
                    try:
                        tensors[name] = file.get_tensor(name)
                    except (SafetensorError, AttributeError) as error:
                        stored = self.folder.headers[path.name][name].dtype
                        raise UnknownDtypeError(f"tensor {name!r} is stored as {stored}") from error
        return tensors

    def map_tensor(self, name: str) -> Tensor:
        """Map one tensor."""
        return self.map_tensors([name])[name]


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


def empty_model_(model: nn.Module) -> list[Slot]:
    """Take every `LazyTensor` out of a model and leave an empty place; tied tensors stay tied."""
    slots, empty = [], dict[int, Tensor]()
    for prefix, module in model.named_modules():
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                if not isinstance(tensor, LazyTensor):
                    continue
                if id(tensor) not in empty:
                    bare = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
                    parameter = held is module._parameters
                    empty[id(tensor)] = nn.Parameter(bare, requires_grad=False) if parameter else bare
                name = f"{prefix}.{key}" if prefix else key
                slots.append(Slot(module, key, name, tensor, empty[id(tensor)]))
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

        Returns:
            The layers, with matrices that can be read while they are not in memory.
        """
        by_module: defaultdict[nn.Module, list[Slot]] = defaultdict(list)
        for slot in self.slots:
            by_module[slot.module].append(slot)
        for layer in layers:
            self._attach_layer(layer, {module: by_module.pop(module, []) for module in layer.module.modules()})
        for module, slots in by_module.items():
            self._attach_other(module, slots)
        sources = {slot.name: slot.source for slot in self.slots}
        return tuple(self._make_readable(layer, sources) for layer in layers)

    def _attach_other(self, module: nn.Module, slots: list[Slot]) -> None:
        """Bring in what is outside of the layers: for good, where that reads nothing yet."""
        as_stored = self.device.type == "cpu" and all(isinstance(slot.source.origin, str) for slot in slots)
        # Models ask where their embedding is before they call it.
        if as_stored or isinstance(module, nn.Embedding):
            self._bring_in(slots)
        else:
            module.register_forward_pre_hook(lambda *_: self._bring_in(slots))
            module.register_forward_hook(lambda *_: self._let_go(slots))

    def _attach_layer(self, layer: DecoderLayer, inside: Mapping[nn.Module, list[Slot]]) -> None:
        slots = [slot for held in inside.values() for slot in held]
        watched = {module for _, module in list_projections(layer.module, "")}
        others = [slot for slot in slots if slot.module not in watched]

        def begin(*_: Any) -> None:
            self._called.clear()
            self._bring_in(slots)
            self._check(others)

        def end(*_: Any) -> None:
            self._check(slot for slot in slots if slot.module in watched - self._called)
            self._let_go(slots)
            self.on_layer(layer.index)

        layer.module.register_forward_pre_hook(begin)
        for module in watched:
            module.register_forward_hook(partial(self._see_product, inside[module]))
        layer.module.register_forward_hook(end)

    def _see_product(self, slots: Sequence[Slot], module: nn.Module, _: Any, output: Any) -> None:
        # A weight that is not finite makes its whole row of the product so: nothing else need be looked at.
        if isinstance(output, Tensor):
            self._called.add(module)
            if not bool(output.isfinite().all()):
                self._check(slots)

    def _check(self, slots: Iterable[Slot]) -> None:
        for slot in slots:
            if slot.key in slot.module._parameters:
                held: Any = getattr(slot.module, slot.key)
                refuse_non_finite(slot.name, held, self.policy)

    def _bring_in(self, slots: Sequence[Slot]) -> None:
        mapped = self.files.map_tensors(name for slot in slots for name in list_sources(slot.source))
        for slot in slots:
            tensor = make_real(slot.source, mapped.__getitem__).to(self.device)
            slot.put(nn.Parameter(tensor, requires_grad=False) if isinstance(slot.empty, nn.Parameter) else tensor)

    def _let_go(self, slots: Sequence[Slot]) -> None:
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
            tuple(_PagedDown(read=read, **_list_fields(down)) for down in layer.down_projections),
            tuple(_PagedMatrix(read=read, **_list_fields(matrix)) for matrix in layer.matrices),
        )


def _list_fields(matrix: Matrix) -> dict[str, Any]:
    return {part.name: getattr(matrix, part.name) for part in fields(matrix)}


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
