"""Opening a checkpoint that need not fit into memory: each decoder layer is there only while it runs.

accelerate's hooks are not used. They take tensors by the names of the files, so that experts that transformers
stacks when it loads are left without data; transformers' own offload writes those to disk a second time. On a
dense model, where both work, this is the faster one (tests/benchmarks).
"""

from __future__ import annotations

import copy
import ctypes
import mmap
import shutil
import threading
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from sw_audit.checkpoint.adapters import Change, find_obstacle, read_adapter
from sw_audit.checkpoint.dtype import choose_dtype
from sw_audit.checkpoint.folder import CheckpointFolder, inspect_folder
from sw_audit.checkpoint.formats.format import CannotStreamError, Decoded
from sw_audit.checkpoint.lazy_tensor import LazyTensor, list_sources, make_entry_real, make_real
from sw_audit.checkpoint.loading import (
    check_loading,
    choose_class,
    load_tokenizer,
    one_line_refusals,
    read_config,
    refuse_disagreement,
    refuse_larger,
    refuse_non_finite,
)
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix, list_projections
from sw_audit.checkpoint.names import match_names
from sw_audit.checkpoint.opening import Checkpoint, find_device, make_checkpoint
from sw_audit.checkpoint.stored import DTYPES, StoredTensors, open_stored
from sw_audit.checkpoint.suppress_output import quiet_libraries
from sw_audit.errors import BrokenWeightsError
from sw_audit.leftovers import find_disk, make_folder
from sw_audit.policy.model_policy import ModelPolicy

Paged = TypeVar("Paged", bound=Matrix)


def open_streaming(
    policy: ModelPolicy, *, digest: bool = True, on_layer: Callable[[int], None] = lambda _: None
) -> Checkpoint:
    """Open a model without reading its weights; each decoder layer is read when it runs, every time it runs.

    The library loads the model once, from tensors that have a shape and no data. What it does to them (other
    names, experts stacked into one parameter, another dtype, ties) is noted, and done again on each layer's
    tensors when the layer runs. So the same checks hold as in `open_checkpoint`, but weights are checked for
    being finite only as far as they are read. `digest` reads all files; `on_layer` is called with the index of
    each decoder layer that has run.

    Raises:
        CheckpointError: If it cannot be opened as it should be; also later, from a layer that is not finite.
        CannotStreamError: If it can be opened as a whole only.
    """
    folder = CheckpointFolder.require(policy)
    inspect_folder(folder)
    device = find_device(policy)
    folders = tuple(_list_folders(folder))
    base = folders[-1]
    if base.is_plain and any(path.suffix != ".safetensors" for path in base.weight_files):
        raise CannotStreamError("its weights are no safetensors")
    for one in folders:
        refuse_disagreement(one)
    with quiet_libraries(), base.format.reading():
        config = read_config(base)
        tokenizer = load_tokenizer(next((one for one in folders if one.has_tokenizer), base))
        if policy.trust_remote_code and getattr(config, "auto_map", None):
            raise CannotStreamError("it runs code of its own")
        files = open_tensors(folders, config)
        try:
            model = build_lazy_model(files.list_lazy(), config, base)
        except BrokenWeightsError as error:
            if folder.is_plain:
                raise
            # Libraries of formats let pass what transformers does not know.
            raise CannotStreamError("its decoded weights are not all that the model asks for") from error
    checkpoint = make_checkpoint(model, tokenizer, folder, folders if digest else [])
    slots = empty_model_(model)
    # What is not stored is made when the model is made, and stays.
    for module, held, key, _, tensor in _list_tensors(model):
        if held is module._buffers and not tensor.is_meta:
            held[key] = tensor.to(device)
    pager = Pager(files, slots, policy, device, on_layer)
    return replace(checkpoint, layers=pager.attach(checkpoint.layers), read_module=pager.read_module)


def build_meta_model(own_class: Any, config: Any, dtype: str, stored: Mapping[str, LazyTensor]) -> Any:
    """Make a model of the stored tensors, if nothing needs to be done to them but to convert them; else `None`.

    That is so for a dense model of one part, whose tensors have the names and shapes that it asks for (of two
    that are tied, files hold one, as a rule), none of them kept in a wider dtype. The library's own loading gives
    the same, and takes longer: it reads the rules of all families first.
    """
    target = config.dtype if dtype == "auto" else getattr(torch, dtype)
    if not isinstance(target, torch.dtype) or config.get_text_config() is not config:
        return None
    with _parameters_without_data(), no_init_weights():
        model = own_class._from_config(config, dtype=target)
    asked = {name: tuple(tensor.shape) for name, tensor in model.state_dict(keep_vars=True).items()}
    if asked != {name: tuple(tensor.shape) for name, tensor in stored.items()}:
        return None
    kept = model._keep_in_fp32_modules | model._keep_in_fp32_modules_strict
    if kept or any(tensor.ndim > 2 for tensor in stored.values()):
        return None
    for _, held, key, name, _ in _list_tensors(model):
        if (lazy := stored.get(name)) is not None:
            held[key] = lazy.to(target) if lazy.is_floating_point() else lazy
    return model


def _list_tensors(model: nn.Module) -> Iterator[tuple[nn.Module, dict[str, Any], str, str, Tensor]]:
    """Yield for each parameter and buffer its module, what holds it there by which key, its name, and itself."""
    for prefix, module in model.named_modules():
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                if tensor is not None:
                    yield module, held, key, f"{prefix}.{key}" if prefix else key, tensor


def _list_folders(folder: CheckpointFolder) -> Iterator[CheckpointFolder]:
    """Yield a checkpoint and, if it is an adapter, what that goes on."""
    yield folder
    if (base := folder.format.find_base(folder)) is not None:
        yield from _list_folders(CheckpointFolder.require(base))


def open_tensors(folders: Sequence[CheckpointFolder], config: Any) -> StreamedTensors:
    """Open the tensors of a checkpoint one at a time, decoded, as a checkpoint that is not quantized holds them.

    Names, layouts and numbers are those that transformers loads, whatever the format; so experts may still be
    apart, which it stacks. What an adapter changes is `W + scale * B @ A`, in float32, as in a merge.

    Args:
        folders: The model, or an adapter and after it what it goes on.
        config: The model's configuration.

    Raises:
        CannotStreamError: If they can be read all at once only.
    """
    folder, *below = folders
    if below:
        return _adapt(open_tensors(below, config), folder)
    if folder.is_plain:
        return MappedFiles(folder)
    stored = open_stored(folder)
    if folder.format.rounds_activations(stored, folder.quantization):
        raise CannotStreamError("its activations are rounded too, which only its library does")
    return DecodedFiles(decode_tensors(folder, stored, config))


def decode_tensors(folder: CheckpointFolder, stored: StoredTensors, config: Any) -> dict[str, Decoded]:
    """Tell how each tensor of a model's files is decoded, by the name that transformers loads it under.

    Raises:
        CannotStreamError: If one of them cannot be decoded by itself.
    """
    # What is decoded is no longer quantized.
    config.__dict__.pop("quantization_config", None)

    def make_model() -> Any:
        _, own_class = choose_class(config, folder)
        if own_class is None:
            raise CannotStreamError("it runs code of its own")
        with _parameters_without_data(), no_init_weights():
            return own_class._from_config(copy.deepcopy(config))

    return folder.format.list_decoded(folder, stored, make_model)


def build_lazy_model(tensors: dict[str, LazyTensor], config: Any, folder: CheckpointFolder) -> Any:
    """Make a model of tensors without data, as transformers loads it, with all that is asked of its loading."""
    _, own_class = choose_class(config, folder)
    if own_class is None:
        raise CannotStreamError("it runs code of its own")
    refuse_larger(own_class, config, folder)
    asked = choose_dtype(folder)
    # What the library dequantizes it rounds to the dtype of the configuration first.
    rounded = folder.format.dequantized and folder.format.uses_config
    dtype = "auto" if rounded else asked
    with one_line_refusals(folder, "its weights"):
        # The library writes into a configuration that it is given.
        model = build_meta_model(own_class, copy.deepcopy(config), dtype, tensors)
        if model is None:
            model, info = own_class.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=dtype,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
            check_loading(info, folder)
    if asked != dtype:
        _convert_(model, getattr(torch, asked))
    return model


def _convert_(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert every floating tensor without data of a model; tied tensors stay tied."""
    made: dict[int, Tensor] = {}
    for _, held, key, _, tensor in list(_list_tensors(model)):
        if isinstance(tensor, LazyTensor) and tensor.is_floating_point():
            held[key] = made.setdefault(id(tensor), tensor.to(dtype))


@contextmanager
def _parameters_without_data() -> Iterator[None]:
    """Let every parameter that is made have no data; buffers that are not stored have theirs."""
    register = nn.Module.register_parameter

    def register_empty(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        register(module, name, param)

    # transformers has no way to make parameters without data and buffers with; accelerate, which is optional, does
    # it so, too.
    setattr(nn.Module, "register_parameter", register_empty)  # noqa: B010 - assigning is what mypy refuses
    try:
        yield
    finally:
        setattr(nn.Module, "register_parameter", register)  # noqa: B010


class StreamedTensors(Protocol):
    """The tensors of a checkpoint as numbers, read one at a time, by the names of one that is not quantized."""

    def list_lazy(self) -> dict[str, LazyTensor]:
        """Return a tensor without data for each one."""

    def map_tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read tensors, or map them; writing into one does not change a file."""

    def map_tensor(self, name: str) -> Tensor:
        """Read or map one tensor."""

    def read_ahead(self, names: Iterable[str]) -> None:
        """Let the disk read what is asked for next, while something else is done."""


@dataclass(frozen=True)
class AdaptedTensors:
    """The tensors of a base with an adapter on it."""

    below: StreamedTensors
    changes: Mapping[str, Change]

    def list_lazy(self) -> dict[str, LazyTensor]:
        """Return a tensor without data for each one; what is changed is float32."""
        lazy = self.below.list_lazy()
        return lazy | {name: LazyTensor.of(name, lazy[name].shape, torch.float32) for name in self.changes}

    def map_tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read tensors of the base, and change those that the adapter changes."""
        tensors = self.below.map_tensors(names)
        for name in tensors.keys() & self.changes.keys():
            tensors[name] = self.changes[name].apply(tensors[name].float())
        return tensors

    def map_tensor(self, name: str) -> Tensor:
        """Read one tensor."""
        return self.map_tensors([name])[name]

    def read_ahead(self, names: Iterable[str]) -> None:
        """Let the base read ahead."""
        self.below.read_ahead(names)


def _adapt(below: StreamedTensors, folder: CheckpointFolder) -> AdaptedTensors:
    adapter = read_adapter(folder)
    if (obstacle := find_obstacle(adapter.settings)) is not None:
        raise CannotStreamError(obstacle)
    if adapter.saved or any("lora_embedding_A" in held for held in adapter.parts.values()):
        # The embedding may be the head too, which then stays what it was.
        raise CannotStreamError("its adapter changes more than matrices of layers")
    placed = {name: target for target, name in match_names(adapter.targets, below.list_lazy())}
    if len(placed) < len(adapter.targets):
        raise CannotStreamError("its adapter changes what files of the base do not name")
    return AdaptedTensors(below, {name: adapter.find_change(target) for name, target in placed.items()})


class DecodedFiles:
    """Tensors of any format, decoded when they are asked for.

    What is asked for again is kept decoded in a temporary folder on a disk, and mapped from there: reading it back
    is many times faster. Where there is no such folder, or it is full, it is decoded each time.
    """

    def __init__(self, tensors: Mapping[str, Decoded]) -> None:
        self.tensors = tensors
        self._asked: set[str] = set()
        self._kept: dict[str, tuple[Path, bool]] = {}
        self._folder: Path | None = None

    def list_lazy(self) -> dict[str, LazyTensor]:
        """Return a tensor without data for each one."""
        lazy = {}
        for name, one in self.tensors.items():
            if one.shape is None or one.dtype not in DTYPES:
                tensor = self.map_tensor(name)
                lazy[name] = LazyTensor.of(name, tensor.shape, tensor.dtype)
            else:
                lazy[name] = LazyTensor.of(name, one.shape, DTYPES[one.dtype])
        return lazy

    def map_tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Decode tensors, or map what was decoded before."""
        return {name: self.map_tensor(name) for name in dict.fromkeys(names)}

    def map_tensor(self, name: str) -> Tensor:
        """Decode one tensor, or map it."""
        if name in self._kept:
            path, turned = self._kept[name]
            with safe_open(path, framework="pt") as file:
                mapped: Tensor = file.get_tensor(name)
                return mapped.T if turned else mapped
        if (tensor := self.tensors[name].read()) is None:
            raise CannotStreamError(f"tensor {name!r} cannot be decoded by itself")
        if name in self._asked and (place := self._find_place()) is not None:
            path = place / f"{len(self._kept)}.safetensors"
            # Whatever hinders it, the tensor is here.
            with suppress(OSError, SafetensorError):
                # The layout in memory stays the same, for products depend on it in their last bits.
                turned = tensor.ndim == 2 and not tensor.is_contiguous()
                save_file({name: (tensor.T if turned else tensor).contiguous()}, path)
                self._kept[name] = path, turned
        self._asked.add(name)
        return tensor

    def read_ahead(self, names: Iterable[str]) -> None:
        """Do nothing: what costs time is decoding."""

    def _find_place(self) -> Path | None:
        if self._folder is None and (disk := find_disk()) is not None:
            with suppress(OSError):
                self._folder = make_folder(disk)
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder


class MappedFiles:
    """The tensors of safetensors files, mapped into memory: a page is read when it is first looked at.

    Nothing is copied: what is returned are views of the files. A file is opened anew for each call, for with the
    last view the mapping goes, and with it every page that was looked at. A tensor in several files is taken from
    the last.
    """

    def __init__(self, folder: CheckpointFolder) -> None:
        self.folder = folder
        self._files = {name: path for path in folder.weight_files for name in folder.headers[path.name]}

    def list_lazy(self) -> dict[str, LazyTensor]:
        """Return a tensor without data for each one."""
        tensors = self.map_tensors(self._files)
        return {name: LazyTensor.of(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()}

    def map_tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Map tensors as they are stored; writing into one does not change the file.

        Raises:
            CannotStreamError: If torch has none of its dtype.
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
                        raise CannotStreamError(f"tensor {name!r} is stored as {stored}") from error
        return tensors

    def map_tensor(self, name: str) -> Tensor:
        """Map one tensor."""
        return self.map_tensors([name])[name]

    def read_ahead(self, names: Iterable[str]) -> None:
        """Let the disk read some tensors into the system's own memory, which does not count as the process's."""
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        mapped = list(self.map_tensors(names).values())
        threading.Thread(target=_advise, args=(mapped,), daemon=True).start()


def _advise(mapped: Sequence[Tensor]) -> None:
    """Tell the system that mapped tensors will be needed; Python's own `mmap` knows no memory of others."""
    system = ctypes.CDLL(None)
    for tensor in mapped:
        begin = tensor.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
        length = tensor.data_ptr() + tensor.nbytes - begin
        system.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), mmap.MADV_WILLNEED)


@dataclass(frozen=True, eq=False)
class Slot:
    """A place for a tensor in a model: `source` makes it, the meta tensor `empty` is there in between."""

    module: nn.Module
    held: dict[str, Any]
    key: str
    name: str
    source: LazyTensor
    empty: Tensor


def empty_model_(model: nn.Module) -> list[Slot]:
    """Replace every `LazyTensor` of a model by an empty place; tied tensors stay tied."""
    slots, empty = [], dict[int, Tensor]()
    for module, held, key, name, tensor in _list_tensors(model):
        if isinstance(tensor, LazyTensor):
            if id(tensor) not in empty:
                bare = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
                parameter = held is module._parameters
                empty[id(tensor)] = nn.Parameter(bare, requires_grad=False) if parameter else bare
            slots.append(Slot(module, held, key, name, tensor, empty[id(tensor)]))
    for slot in slots:
        slot.held[slot.key] = slot.empty
    return slots


def _with_matrices(layer: DecoderLayer, change: Callable[[Any], Any]) -> DecoderLayer:
    return replace(
        layer,
        down_projections=tuple(change(down) for down in layer.down_projections),
        matrices=tuple(change(matrix) for matrix in layer.matrices),
    )


_bytes_read = [0]


def count_bytes_read() -> int:
    """Return how many bytes of weights this process has brought into memory so far, each time counted."""
    return _bytes_read[0]


@dataclass
class Pager:
    """Brings the parts of a model into memory when they run, and drops them right after.

    A decoder layer comes as a whole, and stays as long as somebody has it present. What is outside of the layers
    is mapped from the start, and read as far as it is looked at: of an embedding, the rows of the prompt's tokens;
    of the head, nothing if nobody calls it. `on_layer` is called with the index of each layer that has run.
    """

    files: StreamedTensors
    slots: Sequence[Slot]
    policy: ModelPolicy
    device: torch.device
    on_layer: Callable[[int], None] = lambda _: None
    _called: set[nn.Module] = field(default_factory=set)
    _names: dict[int, list[str]] = field(default_factory=dict)
    # By the layer's index: how many have it present, and those whose weights were all looked at.
    _present: Counter[int] = field(default_factory=Counter)
    _examined: set[int] = field(default_factory=set)

    def attach(self, layers: Sequence[DecoderLayer]) -> tuple[DecoderLayer, ...]:
        """Put hooks on the model, and return its layers with matrices that can be read while not in memory."""
        by_module: defaultdict[nn.Module, list[Slot]] = defaultdict(list)
        for slot in self.slots:
            by_module[slot.module].append(slot)
        inside = {
            layer.index: {module: by_module.pop(module, []) for module in layer.module.modules()}
            for layer in layers
        }
        for layer in layers:
            slots = [slot for held in inside[layer.index].values() for slot in held]
            self._names[layer.index] = [name for slot in slots for name in list_sources(slot.source)]
            self._attach_layer(layer, inside[layer.index])
        embedding = [slots for module, slots in by_module.items() if isinstance(module, nn.Embedding)]
        tied = {id(slot.source) for slots in embedding for slot in slots}
        # Together, so that what is tied is read once, and is one parameter.
        self._bring_in(
            [slot for module, slots in by_module.items() for slot in self._attach_other(module, slots, tied)]
        )
        sources = {slot.name: slot.source for slot in self.slots}

        def page(matrix: Paged) -> Paged:
            return replace(matrix, paged=partial(self._read, sources[matrix.parameter], matrix.expert))

        attached = []
        for layer in layers:
            paged = _with_matrices(layer, page)
            slots = [slot for held in inside[layer.index].values() for slot in held]
            attached.append(replace(paged, bring_in=partial(self._bring_in_layer, layer, slots)))
        return tuple(attached)

    @contextmanager
    def _bring_in_layer(self, layer: DecoderLayer, slots: Sequence[Slot]) -> Iterator[DecoderLayer]:
        """Have a layer in memory, however often it runs meanwhile, and with whatever weights."""
        held = {slot.name: slot for slot in slots}

        def make_present(matrix: Paged) -> Paged:
            # A matrix that another layer, or the embedding, has too is not this one's to bring in.
            slot = held.get(matrix.parameter)
            return matrix if slot is None else replace(matrix, tensor=slot.held[slot.key], paged=None)

        if not self._present[layer.index]:
            self._bring_in_next(layer, slots)
        self._present[layer.index] += 1
        try:
            if layer.index not in self._examined:
                self._check(slots)
                self._examined.add(layer.index)
            yield _with_matrices(layer, make_present)
        finally:
            self._present[layer.index] -= 1
            if not self._present[layer.index]:
                self._let_go(slots)

    def read_module(self, name: str) -> dict[str, Tensor]:
        """Read the tensors of a module and of those in it, by their qualified names, as they are when it runs.

        On the CPU, decoded and converted as transformers does it when it loads, whatever the files store.
        """
        return dict(self._read_slots([slot for slot in self.slots if slot.name.startswith(f"{name}.")]))

    def _attach_other(self, module: nn.Module, slots: list[Slot], tied: Collection[int]) -> list[Slot]:
        """Return those of a module's tensors that are to be there from the start; the others come when it runs."""
        as_stored = self.device.type == "cpu" and all(isinstance(slot.source.origin, str) for slot in slots)
        # Models ask where their embedding is before they call it.
        if as_stored or all(id(slot.source) in tied for slot in slots):
            return slots
        module.register_forward_pre_hook(lambda *_: self._bring_in(slots))
        module.register_forward_hook(lambda *_: self._let_go(slots))
        return []

    def _attach_layer(self, layer: DecoderLayer, inside: Mapping[nn.Module, list[Slot]]) -> None:
        slots = [slot for held in inside.values() for slot in held]
        watched = {module for _, module in list_projections(layer.module, "")}
        others = [slot for slot in slots if slot.module not in watched]

        def begin(*_: Any) -> None:
            if not self._present[layer.index]:
                self._called.clear()
                self._bring_in_next(layer, slots)
                self._check(others)

        def end(*_: Any) -> None:
            if not self._present[layer.index]:
                self._check(slot for slot in slots if slot.module in watched - self._called)
                self._let_go(slots)
            self.on_layer(layer.index)

        def see_product(module: nn.Module, _: Any, output: Any) -> None:
            if not self._present[layer.index]:
                self._see_product(inside[module], module, output)

        layer.module.register_forward_pre_hook(begin)
        for module in watched:
            module.register_forward_hook(see_product)
        layer.module.register_forward_hook(end)

    def _see_product(self, slots: Sequence[Slot], module: nn.Module, output: Any) -> None:
        # A weight that is not finite makes its whole row of the product so: nothing else need be looked at.
        if isinstance(output, Tensor):
            self._called.add(module)
            if not bool(output.isfinite().all()):
                self._check(slots)

    def _check(self, slots: Iterable[Slot]) -> None:
        for slot in slots:
            if slot.held is slot.module._parameters:
                refuse_non_finite(slot.name, slot.held[slot.key], self.policy)

    def _read_slots(self, slots: Sequence[Slot]) -> Iterator[tuple[str, Tensor]]:
        mapped = self.files.map_tensors(name for slot in slots for name in list_sources(slot.source))
        for slot in slots:
            yield slot.name, make_real(slot.source, mapped.__getitem__)

    def _bring_in(self, slots: Sequence[Slot]) -> None:
        made: dict[int, Tensor] = {}
        for slot, (_, read) in zip(slots, self._read_slots(slots), strict=True):
            # What is tied is one parameter, whatever was done to make it.
            if (tensor := made.get(id(slot.source))) is None:
                tensor = made[id(slot.source)] = read.to(self.device)
                if slot.held is slot.module._parameters:
                    tensor = made[id(slot.source)] = nn.Parameter(tensor, requires_grad=False)
                _bytes_read[0] += tensor.nbytes
            slot.held[slot.key] = tensor

    def _bring_in_next(self, layer: DecoderLayer, slots: Sequence[Slot]) -> None:
        """Bring in a layer, and let the disk read the one that comes next."""
        self._bring_in(slots)
        if (following := self._names.get(layer.index + 1)) is not None:
            self.files.read_ahead(following)

    def _let_go(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            slot.held[slot.key] = slot.empty

    def _read(self, source: LazyTensor, expert: int | None) -> Tensor:
        if expert is None:
            return make_real(source, self.files.map_tensor)
        return make_entry_real(source, expert, self.files.map_tensor)
