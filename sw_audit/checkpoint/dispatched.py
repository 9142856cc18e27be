"""A model that accelerate has spread over devices, memory and disk (`device_map`).

accelerate puts a hook on every module. It moves what enters to the module's device, and brings in weights that
wait on disk or in other memory for as long as that module runs. So what is changed would be gone when the module
runs next. Inside of decoder layers these hooks are laid aside, and the layer as a whole does the same: it moves
what enters and brings in all of its weights, which stay as long as somebody has the layer present. What leaves a
layer goes to the device of the embedding, so that all states of a model are on one. What waits outside of the
layers is there from beginning to end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sw_audit.checkpoint.families import find_decoder_layers, find_layer_modules
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix
from sw_audit.errors import CheckpointError

_M = TypeVar("_M", bound=Matrix)
# What accelerate calls its hook, and the forward that was there before.
_HOOK, _FORWARD = "_hf_hook", "_old_forward"


def is_dispatched(model: nn.Module) -> bool:
    """Tell whether accelerate's hooks are on a model."""
    return any(next(_list_hooks(module), None) is not None for module in model.modules())


def waits(module: nn.Module) -> bool:
    """Tell whether a module's own weights are in memory only while it runs."""
    return any(hook.offload for hook in _list_hooks(module))


@contextmanager
def dispatched_layers(model: Any, named: str) -> Iterator[tuple[DecoderLayer, ...]]:
    """Have the decoder layers of a dispatched model, each of which brings its weights in as a whole.

    Afterwards accelerate's hooks do what they did; whoever calls it puts the attributes of all modules back.

    Raises:
        CheckpointError: If it is no decoder, or a layer is on several devices, or waits in packed form.
    """
    modules = find_layer_modules(model)
    inside = {part for module in modules for part in module.modules()}
    with ExitStack() as stack:
        for module in model.modules():
            if module is not model and module not in inside:
                stack.enter_context(_brought_in(module))
        _tie_(model)
        home = model.get_input_embeddings().weight.device
        whole = [_WholeLayer.make(module, home, f"{named}, decoder layer {n}") for n, module in enumerate(modules)]
        yield tuple(one.attach(layer) for one, layer in zip(whole, find_decoder_layers(model), strict=True))


@contextmanager
def _brought_in(module: nn.Module) -> Iterator[None]:
    """Have the weights of one module outside of the layers in memory, also where they wait."""
    hooks = list(_list_hooks(module))
    for hook in hooks:
        _lay_aside_(module)
        if hook.offload:
            hook.pre_forward(module)
        if hook.execution_device is not None:
            move = partial(_move_inputs, torch.device(hook.execution_device), hook.skip_keys)
            module.register_forward_pre_hook(move, with_kwargs=True)
    try:
        yield
    finally:
        for hook in hooks:
            if hook.offload:
                hook.post_forward(module, None)


def _tie_(model: Any) -> None:
    """Let a head that is the embedding be one parameter with it: each may have been brought in by itself."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or not model.config.get_text_config(decoder=True).tie_word_embeddings:
        return
    if head.weight.device == embedding.weight.device and torch.equal(head.weight, embedding.weight):
        head._parameters["weight"] = embedding.weight


@dataclass(eq=False)
class _WholeLayer:
    """A decoder layer that is brought in as a whole.

    Attributes:
        module: The layer.
        home: Where what leaves it goes.
        device: Where it runs.
        skipped: Names of arguments that are not moved, such as a cache.
        waiting: The modules of it whose weights wait, each with the hook that brings them in.
        present: How many have it present.
    """

    module: nn.Module
    home: torch.device
    device: torch.device
    skipped: Any
    waiting: list[tuple[nn.Module, Any]]
    present: int = field(default=0, init=False)

    @classmethod
    def make(cls, module: nn.Module, home: torch.device, named: str) -> _WholeLayer:
        hooks = [(part, hook) for part in module.modules() for hook in _list_hooks(part)]
        devices = {torch.device(hook.execution_device) for _, hook in hooks if hook.execution_device is not None}
        if len(devices) > 1:
            found = f"it is split over {' and '.join(sorted(map(str, devices)))}"
            raise CheckpointError(named, found, "keep each decoder layer on one device in `device_map`")
        for part in {part for part, _ in hooks}:
            _lay_aside_(part)
        skipped = next((hook.skip_keys for _, hook in hooks if hook.skip_keys), None)
        device = devices.pop() if devices else home
        return cls(module, home, device, skipped, [(part, hook) for part, hook in hooks if hook.offload])

    def attach(self, layer: DecoderLayer) -> DecoderLayer:
        if self.waiting and any(matrix.probed is not None for matrix in layer.matrices):
            found = "its weights are packed, and are in memory only while it runs"
            raise CheckpointError(
                f"decoder layer {layer.index}", found, "keep packed layers out of `disk` and `cpu`"
            )
        self.module.register_forward_pre_hook(self._begin, with_kwargs=True)
        self.module.register_forward_hook(self._end)
        if not self.waiting:
            return layer
        stored = {part: hook.weights_map for part, hook in self.waiting}

        def page(matrix: _M) -> _M:
            path, _, key = matrix.parameter.removeprefix(f"{layer.name}.").rpartition(".")
            part = self.module.get_submodule(path)
            return replace(matrix, paged=partial(_read, stored[part], key, matrix)) if part in stored else matrix

        return replace(_change_matrices(layer, page), bring_in=partial(self._bring_in, layer))

    @contextmanager
    def _bring_in(self, layer: DecoderLayer) -> Iterator[DecoderLayer]:
        def make_present(matrix: _M) -> _M:
            parameter = self.module.get_parameter(matrix.parameter.removeprefix(f"{layer.name}."))
            return replace(matrix, tensor=parameter)

        if not self.present:
            self._load()
        self.present += 1
        try:
            yield _change_matrices(layer, make_present)
        finally:
            self.present -= 1
            if not self.present:
                self._drop()

    def _begin(self, module: nn.Module, positional: Any, named: Any) -> Any:
        if not self.present:
            self._load()
        return _move_inputs(self.device, self.skipped, module, positional, named)

    def _end(self, _: nn.Module, __: Any, output: Any) -> Any:
        if not self.present:
            self._drop()
        return _move(output, self.home, self.skipped)

    def _load(self) -> None:
        for part, hook in self.waiting:
            hook.pre_forward(part)

    def _drop(self) -> None:
        for part, hook in self.waiting:
            hook.post_forward(part, None)


def _move_inputs(device: torch.device, skipped: Any, _: nn.Module, positional: Any, named: Any) -> tuple[Any, Any]:
    return _move(positional, device, skipped), _move(named, device, skipped)


def _move(values: Any, device: torch.device, skipped: Any) -> Any:
    from accelerate.utils import send_to_device  # type: ignore[import-untyped]

    return send_to_device(values, device, skip_keys=skipped)


def _change_matrices(layer: DecoderLayer, change: Any) -> DecoderLayer:
    downs, matrices = map(change, layer.down_projections), map(change, layer.matrices)
    return replace(layer, down_projections=tuple(downs), matrices=tuple(matrices))


def _read(stored: Mapping[str, Tensor], key: str, matrix: Matrix) -> Tensor:
    weight = stored[key].to("cpu", matrix.tensor.dtype)
    return weight if matrix.expert is None else weight[matrix.expert]


def _list_hooks(module: nn.Module) -> Iterator[Any]:
    """Yield the hooks of accelerate on one module that move its inputs and may bring in its weights."""
    hook = vars(module).get(_HOOK)
    for one in getattr(hook, "hooks", (hook,)):
        if hasattr(one, "weights_map"):
            yield one


def _lay_aside_(module: nn.Module) -> None:
    """Let a module run as it did before accelerate's hook was put on it."""
    before = vars(module)[_FORWARD]
    if getattr(before, "__func__", None) is type(module).forward:
        vars(module).pop("forward", None)
    else:
        module.forward = before
