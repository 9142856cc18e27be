"""Where a scalar lies in a checkpoint's files, and what the model is with one of its bits flipped.

Nothing is derived from how a format is said to pack. What is stored is changed, decoded by the format's own
library and laid out by transformers, as when it opens the checkpoint, and what comes out is compared. The entry on
which a scalar depends is found by changing every second entry, every second two, and so on: the answers are the
digits of its number. It is confirmed twice: changing it alone changes the scalar, changing all others does not.
Where that fails the scalar is not placed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sw_audit.checkpoint.bit_fields import FLOAT_BITS, BitMeaning, name_bit, name_block_bit
from sw_audit.checkpoint.folder import CheckpointFolder, inspect_folder
from sw_audit.checkpoint.formats.format import CannotStreamError, find_packing, is_code
from sw_audit.checkpoint.headers import SIZES
from sw_audit.checkpoint.lazy_tensor import LazyTensor, Step, list_sources, make_entry_real, make_real
from sw_audit.checkpoint.loading import read_config
from sw_audit.checkpoint.parameters import ModelParameter
from sw_audit.checkpoint.stored import DTYPES, StoredTensors, open_stored
from sw_audit.checkpoint.streaming import build_lazy_model, decode_tensors
from sw_audit.checkpoint.suppress_output import quiet_libraries
from sw_audit.gguf_file import read_gguf
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.bits import BitPart

MOST_CHANGED = 1 << 14
"""Of so many scalars it is told what a bit makes of each."""
# Modules that keep codes answer in their own dtype.
_ALIKE = 1 / 64
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class UnplacedError(Exception):
    """It is not known where something is stored, and why."""


class StoredUnit(NamedTuple):
    """The smallest piece of a file that is decoded by itself: one entry of a tensor, or a block.

    Attributes:
        tensor: Name of the tensor in the file.
        dtype: As the file names it.
        file: Name of the file.
        offset: Of its first byte in the file.
        data: Its bytes.
        first: Number of its first entry in the tensor, counted along the rows.
        entries: How many it holds.
        entry: The one that the scalar depends on.
        part: What of the scalar it is; a block holds several parts, and is `block` here.
    """

    tensor: str
    dtype: str
    file: str
    offset: int
    data: bytes
    first: int
    entries: int
    entry: int
    part: BitPart


class Flip(NamedTuple):
    """What one flipped bit makes of the model.

    Attributes:
        unit: What it is a bit of.
        number: Which one, counted from the lowest bit of the first byte.
        meaning: What it is.
        after: The scalar then.
        changed: How many scalars change.
        values: Each of them with its new value; nothing where they are more than `MOST_CHANGED`.
        finite: Whether all stay finite.
    """

    unit: StoredUnit
    number: int
    meaning: BitMeaning
    after: float
    changed: int
    values: Mapping[tuple[int, ...], float]
    finite: bool


@dataclass
class _WatchedTensors(StoredTensors):
    """The tensors of a checkpoint, some replaced; it notes which are asked for, and keeps what was read."""

    replaced: dict[str, Tensor] = field(default_factory=dict)
    asked: dict[str, None] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)

    def read(self, name: str) -> Tensor | None:
        self.asked[name] = None
        if (replaced := self.replaced.get(name)) is not None:
            return replaced
        return None if (held := self.keep(name)) is None else held.clone()

    def keep(self, name: str) -> Tensor | None:
        """Read a tensor once; nobody may write into it."""
        if name not in self.kept and (tensor := super().read(name)) is not None:
            self.kept[name] = tensor.contiguous()
        return self.kept.get(name)


class StoredModel:
    """The files of a model, to see what they decode to when something in them is changed; files are only read.

    Raises:
        UnplacedError: If its tensors cannot be decoded one by one.
        CheckpointError: If it cannot be opened at all.
    """

    def __init__(self, policy: ModelPolicy) -> None:
        folder = CheckpointFolder.require(policy)
        inspect_folder(folder)
        if folder.format.find_base(folder) is not None:
            raise UnplacedError("it is an adapter on another model: name that, or the two merged")
        if any(path.suffix not in (".safetensors", ".gguf") for path in folder.weight_files):
            raise UnplacedError("its weights are a pickle, which tells no offsets")
        self._folder = folder
        self._stored = _WatchedTensors(open_stored(folder).files)
        try:
            with quiet_libraries(), folder.format.reading():
                config = read_config(folder)
                self._decoded = decode_tensors(folder, self._stored, config)
                lazy = {name: self._make_lazy(name) for name in self._decoded}
                self._stored.kept.clear()
                model: nn.Module = build_lazy_model(lazy, config, folder)
        except CannotStreamError as error:
            raise UnplacedError(str(error)) from error
        self._sources = {  # what is without data is no parameter of torch's kind
            f"{prefix}.{key}" if prefix else key: tensor
            for prefix, module in model.named_modules()
            for key, tensor in dict[str, Tensor | None](module._parameters).items()
            if isinstance(tensor, LazyTensor)
        }
        self._base: tuple[tuple[str, int | None], Tensor] | None = None

    def _make_lazy(self, name: str) -> LazyTensor:
        decoded = self._decoded[name]
        if decoded.shape is not None and decoded.dtype in DTYPES:
            return LazyTensor.of(name, decoded.shape, DTYPES[decoded.dtype])
        if (tensor := decoded.read()) is None:
            raise CannotStreamError(f"tensor {name!r} cannot be decoded by itself")
        return LazyTensor.of(name, tensor.shape, tensor.dtype)

    def find_units(self, parameter: ModelParameter, index: tuple[int, ...]) -> tuple[StoredUnit, ...]:
        """Find what a scalar is made of: its own entry, and in packed formats those of scales and the like.

        Raises:
            UnplacedError: If it is not made of one entry of each tensor, or the open model has another value.
        """
        source = self._sources.get(parameter.name)
        if source is None:
            raise UnplacedError("its files hold no tensor that it is made of")
        seen = _Scalar(self, parameter, index, source)
        value, held = float(seen.base[seen.place]), parameter.read(index)
        if not math.isclose(value, held, rel_tol=_ALIKE, abs_tol=0.0):
            raise UnplacedError(f"its files make {value:.6g} of it, and the open model has {held:.6g}")
        return tuple(seen.find_units())

    def list_flips(
        self, parameter: ModelParameter, index: tuple[int, ...], unit: StoredUnit
    ) -> Iterator[Flip | None]:
        """Yield for each bit of a unit what flipping it does; `None` where the scalar stays what it is."""
        seen = _Scalar(self, parameter, index, self._sources[parameter.name])
        for number in range(8 * len(unit.data)):
            yield seen.flip(unit, number)


class _Scalar:
    """One scalar of a model, and the ways to make it of what is stored."""

    def __init__(
        self, model: StoredModel, parameter: ModelParameter, index: tuple[int, ...], source: LazyTensor
    ) -> None:
        self.model, self.parameter, self.index, self.source = model, parameter, index, source
        self.stored = model._stored
        step = source.origin
        # Of experts that were stacked, the one; of others all, for they may share what is stored.
        stacked = isinstance(step, Step) and step.function is torch.stack and len(parameter.shape) == 3
        self.expert = index[0] if stacked and step.named.get("dim", 0) == 0 else None  # type: ignore[union-attr]
        self.place = index if self.expert is None else index[1:]
        key = parameter.name, self.expert
        if model._base is None or model._base[0] != key:
            self.stored.kept.clear()
            model._base = None
            if (base := self.make()) is None:
                raise UnplacedError("its tensor cannot be decoded by itself")
            model._base = key, base
        self.base = model._base[1]

    def make(self, blanked: Callable[[str], bool] = lambda _: False) -> Tensor | None:
        """Make the parameter, or its one expert, as addressed; `None` where that fails.

        What `blanked` names is not a number throughout.
        """

        def read(name: str) -> Tensor:
            if (tensor := self.model._decoded[name].read()) is None:
                raise ValueError(name)
            return torch.full_like(tensor, math.nan) if blanked(name) else tensor

        try:
            with quiet_libraries(), np.errstate(all="ignore"):
                if self.expert is None:
                    made = make_real(self.source, read)
                else:
                    made = make_entry_real(self.source, self.expert, read)
        except Exception:  # libraries fail in every way on what they did not write
            return None
        made = made.detach()
        seen = self.parameter.see(made if made.ndim else made.view(1))
        known = self.model._base
        return None if known is not None and known[1].shape != seen.shape else seen

    def find_units(self) -> Iterator[StoredUnit]:
        decoded = self._find_decoded()
        self.stored.asked.clear()
        self.model._decoded[decoded].read()
        asked = list(self.stored.asked)
        for name in asked:
            if (entry := self._find_entry(name)) is not None:
                yield self._make_unit(name, entry, asked)

    def _find_decoded(self) -> str:
        """Find the one decoded tensor that the scalar is in."""
        names = list(dict.fromkeys(list_sources(self.source)))

        def changes(mask: Tensor) -> bool:
            chosen = {name for name, one in zip(names, mask.tolist(), strict=True) if one}
            made = self.make(chosen.__contains__)
            return made is not None and bool(made[self.place] != self.base[self.place])

        return names[self._seek(len(names), changes)]

    def _find_entry(self, name: str) -> int | None:
        """Find the entry of a stored tensor that the scalar depends on; `None` if it depends on none."""
        tensor = self.stored.keep(name)
        if tensor is None or not tensor.numel():
            return None

        def changes(mask: Tensor) -> bool:
            made = self._make_with(name, _disturb(tensor, mask))
            return made is not None and bool(made[self.place] != self.base[self.place])

        if not changes(torch.ones(tensor.numel(), dtype=torch.bool)):
            return None  # it is none of its numbers, such as a shape, or nothing decodes with it
        # Nearly always the parameter is the tensor, in some layout.
        guess = _place_in(self.parameter, self.place) if tensor.shape == self._stored_shape() else None
        return self._seek(tensor.numel(), changes, guess)

    def _stored_shape(self) -> torch.Size:
        # What is addressed is what is stored, or transposed, which the same view undoes.
        return self.parameter.see(self.base).shape if self.base.ndim > 1 else self.base.shape

    def _seek(self, count: int, changes: Callable[[Tensor], bool], guess: int | None = None) -> int:
        numbers = torch.arange(count, dtype=torch.int32)

        def holds(place: int) -> bool:
            only = numbers == place
            return changes(only) and (count == 1 or not changes(~only))

        if guess is not None and holds(guess):
            return guess
        found = 0
        for digit in range((count - 1).bit_length()):
            if changes((numbers >> digit) & 1 == 1):
                found |= 1 << digit
        if found >= count or not holds(found):
            raise UnplacedError("it is made of several entries of a tensor")
        return found

    def _make_with(self, name: str, tensor: Tensor) -> Tensor | None:
        self.stored.replaced[name] = tensor
        try:
            return self.make()
        finally:
            del self.stored.replaced[name]

    def _make_unit(self, name: str, entry: int, asked: Sequence[str]) -> StoredUnit:
        header = self.stored.headers[name]
        part: BitPart = "block"
        path = next(path for path in self.model._folder.weight_files if path.name == header.file)
        if path.suffix == ".gguf":
            from gguf import GGML_QUANT_SIZES

            held = next(tensor for tensor in read_gguf(path).tensors if tensor.name == name)
            count, size = GGML_QUANT_SIZES[held.tensor_type]
            begin = int(held.data_offset)
        else:
            if header.dtype not in SIZES:
                raise UnplacedError(f"it is stored as {header.dtype}, whose size is not known here")
            count, size, part = 1, SIZES[header.dtype], self._name_part(name, asked)
            begin = _find_begin(path, name)
        offset = begin + entry // count * size
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        return StoredUnit(name, header.dtype, path.name, offset, data, entry // count * count, count, entry, part)

    def flip(self, unit: StoredUnit, number: int) -> Flip | None:
        """Flip one bit of a unit, and see what that makes of the model; `None` if the scalar stays what it is."""
        tensor = self.stored.keep(unit.tensor)
        if tensor is None:
            raise UnplacedError(f"{unit.tensor} does not read")
        flipped = bytearray(unit.data)
        flipped[number // 8] ^= 1 << number % 8
        held = tensor.view(-1)[unit.first : unit.first + unit.entries]
        before, numbers = held.clone(), _decode(unit, bytes(flipped), tensor.dtype)
        own = unit.entry - unit.first
        if _same(numbers[own], before[own]):
            return None
        # In place, for a copy of a large tensor for every bit takes as long as all else.
        _as_words(held).copy_(_as_words(numbers))
        try:
            made = self.make()
        finally:
            _as_words(held).copy_(_as_words(before))
        if made is None:
            raise UnplacedError(f"with a bit of {unit.tensor} flipped it cannot be decoded")
        if _same(made[self.place], self.base[self.place]):
            return None
        places = (made != self.base).nonzero()
        changed = made[tuple(places.T)].double()
        expert = () if self.expert is None else (self.expert,)
        values = {}
        if len(places) <= MOST_CHANGED:
            pairs = zip(places.tolist(), changed.tolist(), strict=True)
            values = {(*expert, *place): value for place, value in pairs}
        blocks = unit.part == "block"
        meaning = name_block_bit(unit.dtype, number) if blocks else name_bit(unit.dtype, unit.part, number)
        after = float(made[self.place])
        return Flip(unit, number, meaning, after, len(places), values, bool(changed.isfinite().all()))

    def _name_part(self, name: str, asked: Sequence[str]) -> BitPart:
        """Say what a tensor of safetensors is among those that a weight is decoded from."""
        headers = self.stored.headers
        codes = [one for one in asked if is_code(one, headers[one])]
        if name in codes:
            return "code"
        if not codes:
            return "number"
        scales = [found[0] for one in codes if (found := find_packing(one, headers)) is not None]
        return "scale" if name in scales or headers[name].dtype in FLOAT_BITS else "zero point"


def _place_in(parameter: ModelParameter, place: tuple[int, ...]) -> int | None:
    """Return the number of a scalar in the tensor that is stored, where that is the parameter in some layout."""
    shape = parameter.shape[-len(place) :]
    numbers = math.prod(shape)
    if numbers >= 1 << 31:
        return None
    stored_shape = parameter.see(torch.empty(shape, device="meta")).shape
    stored = torch.arange(numbers, dtype=torch.int32).view(stored_shape)
    return int(parameter.see(stored)[place])


def _disturb(tensor: Tensor, mask: Tensor) -> Tensor:
    """Return a tensor with some entries, bool [entries], that are no numbers, or whose bits are the opposite."""
    flat = tensor.flatten().clone()
    if tensor.dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        flat[mask] = math.nan
    else:
        words = _as_words(flat)
        words[mask] = words[mask].bitwise_not()
    return flat.view(tensor.shape)


def _as_words(flat: Tensor) -> Tensor:
    """See entries as whole numbers of their size; a view."""
    return flat.view(_WORDS[flat.element_size()])


def _decode(unit: StoredUnit, data: bytes, dtype: torch.dtype) -> Tensor:
    """Return the entries [entries] of a unit's bytes, as the tensor that was read has them."""
    if not unit.file.endswith(".gguf"):
        return torch.frombuffer(bytearray(data), dtype=dtype)
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    stored = np.frombuffer(data, np.uint8).reshape(1, -1)
    with np.errstate(all="ignore"):
        return torch.from_numpy(np.array(dequantize(stored, GGMLQuantizationType[unit.dtype])).reshape(-1))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.equal(other) or bool(one.isnan() & other.isnan())


def _find_begin(path: Any, name: str) -> int:
    """Return the offset of a tensor in a safetensors file, which the library does not tell."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        begin: int = json.loads(file.read(length))[name]["data_offsets"][0]
    return 8 + length + begin
