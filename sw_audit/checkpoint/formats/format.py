"""What every format of stored weights says of itself, and the register of those there are.

A checkpoint has exactly one format: that of its files (an adapter, a GGUF file), else the one that the
`quantization_config` of its config.json names, else plain weights. Nothing is unpacked here: a module that keeps
its weight packed is read by what it does (`sw_audit.checkpoint.effective`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sw_audit.checkpoint.formats.patterns import Effect, ModulePattern, flatten
from sw_audit.checkpoint.formats.scales import Scale
from sw_audit.checkpoint.headers import FLOATS, TensorHeader
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.checkpoint import Contradiction, Flaw, QuantizedModule

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sw_audit.checkpoint.folder import CheckpointFolder
    from sw_audit.checkpoint.stored import StoredTensors

Headers = Mapping[str, TensorHeader]


@dataclass(frozen=True)
class Packing:
    """How a library names what it makes of one weight.

    Attributes:
        codes: Suffix of the tensor with the codes.
        scales: Suffix of the one with the scales; empty where it has none of its own.
        needs_scales: Whether codes without scales are of no use; some formats have codes under a plain name.
        exponents: Whether scales that are bytes are powers of two.
    """

    codes: str
    scales: str
    needs_scales: bool = True
    exponents: bool = False


class CannotStreamError(Exception):
    """A checkpoint that can be opened as a whole only, and why."""


@dataclass(frozen=True)
class Decoded:
    """A tensor of a checkpoint as numbers.

    Attributes:
        read: Reads it from the files and decodes it, on the CPU, each time anew; codes as float32. `None` comes
            back where a part of it is not as it should be.
        shape: Of the numbers; `None` where only reading tells.
        dtype: Of the numbers, as safetensors names it.
    """

    read: Callable[[], Tensor | None]
    shape: tuple[int, ...] | None
    dtype: str = "F32"


@dataclass(frozen=True)
class OpenModel:
    """A model that is open, as far as a format asks about it.

    Attributes:
        folder: Where it is from.
        stored: The tensors of its files.
        family: Its `model_type`.
        layers: Number of decoder layers.
        parameters: Names of the decoder matrices.
        packed: The modules that keep their weights packed, by name; what an adapter is put on in its place.
        plain: Names of those among them whose weight is a plain floating parameter.
    """

    folder: CheckpointFolder
    stored: StoredTensors
    family: str
    layers: int
    parameters: Sequence[str]
    packed: Mapping[str, torch.nn.Module]
    plain: frozenset[str]


@dataclass(frozen=True)
class Description:
    """How an open model is quantized.

    Attributes:
        modules: How each module is stored that is stored as codes, by its name in the model, or in the files.
        words: The configuration's own words, short, such as `nf4, double quantized`.
        find_scale: Finds the scale of one scalar, by module, output channel, input channel and shape (out, in).
        contradictions: What is stored otherwise than its files say.
    """

    modules: Mapping[str, QuantizedModule]
    words: str
    find_scale: Callable[[str, int, int, tuple[int, int]], Scale | None]
    contradictions: tuple[Contradiction, ...] = ()


class Format:
    """A way to store weights, by default one whose modules keep their weights packed.

    Attributes:
        method: The `quant_method` of the configuration, or a word for what has none.
        packages: The packages that are imported for it; pip calls them the same, with hyphens.
        extra: The extra of sw-audit that brings it.
        obstacle: Why it cannot be opened whatever is installed; `None` if it can.
        uses_config: Whether config.json describes the model, and says that it is stored so.
        declared_bos_counts: Whether what its files declare of BOS counts, not what the tokenizer returns.
        dequantized: Whether it is opened as plain floating weights, which are exactly what the codes stand for.
        packings: What tensors it makes of a weight. If there are any, every checkpoint holds some of them.
        names_in_transformers: The names by which transformers knows it; by default its method.
        skip_keys: Keys of the configuration that list what is left as it is.
        select_keys: Keys that list what is quantized, where nothing else is.
        module_packages: The packages whose modules keep their weights packed, as beginnings of qualified names.
        loggers: The loggers of libraries that say more than errors while they load.
    """

    method: str = ""
    packages: tuple[str, ...] = ()
    extra: str = ""
    obstacle: str | None = None
    uses_config: bool = True
    declared_bos_counts: bool = False
    dequantized: bool = False
    packings: tuple[Packing, ...] = ()
    names_in_transformers: tuple[str, ...] = ()
    skip_keys: tuple[str, ...] = ("ignore", "modules_to_not_convert")
    select_keys: tuple[str, ...] = ("modules_to_convert",)
    module_packages: tuple[str, ...] = ()
    loggers: tuple[str, ...] = ()

    def recognizes(self, folder: CheckpointFolder) -> bool:
        """Tell whether a checkpoint is stored so."""
        return folder.quantization.get("quant_method") == self.method

    def require(self, folder: CheckpointFolder) -> None:
        """Refuse what cannot be opened here: a package is missing, or nothing can open it."""
        if self.obstacle is not None:
            remedy = "store it with another library, or give the checkpoint that it was made from"
            found = f"its weights are stored by {self.method}: {self.obstacle}"
            raise BrokenWeightsError(folder.asked, found, remedy, kind="unknown-method", where="config.json")
        missing = [name.replace("_", "-") for name in self.packages if find_spec(name) is None]
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            found = f"its weights are stored as {self.method}, and {' and '.join(missing)} {verb} not installed"
            raise CheckpointError(folder.asked, found, f"install it: pip install 'sw-audit[{self.extra}]'")

    def list_files(self, folder: CheckpointFolder) -> tuple[Path, ...]:
        """List the weight files that opening reads."""
        return folder.list_layout()

    def find_base(self, folder: CheckpointFolder) -> ModelPolicy | None:  # noqa: ARG002
        """Tell which model this one is put on; `None` if it is a model by itself."""
        return None

    def inspect(self, folder: CheckpointFolder) -> None:
        """Raise CheckpointError for what files and headers show, beyond what is asked of every format."""

    def lint_shapes(self, settings: Mapping[str, Any], headers: Headers) -> Iterator[Flaw]:  # noqa: ARG002
        """Yield what codes, scales and the configuration do not agree on."""
        return iter(())

    def name_weight(self, codes: str) -> str:
        """Name the weight that a tensor of codes stands for, as it is called where it is not quantized."""
        ends = next((packing.codes for packing in self.packings if codes.endswith(packing.codes)), "")
        stem = codes.removesuffix(ends)
        return f"{stem}.weight" if not ends or ends.startswith(".") else stem

    def decode(self, weight: str, stored: StoredTensors, settings: Mapping[str, Any]) -> Decoded | None:  # noqa: ARG002
        """Tell how the codes of a weight [out, in] are decoded by themselves; `None` where that is not known here.

        `settings` are what the configuration says of quantization.
        """
        return None

    def list_tensors(self, stored: StoredTensors, settings: Mapping[str, Any]) -> dict[str, Decoded | None]:
        """List every tensor by the name that it has where it is not quantized; `None` for unknown codes."""
        headers = stored.headers
        codes = {name: self.name_weight(name) for name, header in headers.items() if is_code(name, header)}
        packed = {weight.removesuffix(".weight") for weight in codes.values()}
        tensors: dict[str, Decoded | None] = {}
        for name, header in headers.items():
            if name in codes:
                tensors[codes[name]] = self.decode(codes[name], stored, settings)
            elif not _is_part(name, packed):
                tensors[name] = Decoded(partial(stored.read, name), header.shape, header.dtype)
        return tensors

    def list_decoded(
        self,
        folder: CheckpointFolder,
        stored: StoredTensors,
        model: Callable[[], Any],  # noqa: ARG002
    ) -> dict[str, Decoded]:
        """List every tensor as transformers would load it of a checkpoint that is not quantized.

        `model` makes the model without data, whose names some formats ask for.

        Raises:
            CannotStreamError: If one of them cannot be decoded by itself, or they are not all that the model does.
        """
        tensors = {}
        for name, decoded in self.list_tensors(stored, folder.quantization).items():
            if decoded is None:
                raise CannotStreamError(f"the codes of {name} cannot be decoded by themselves")
            tensors[name] = decoded
        return tensors

    def rounds_activations(self, stored: StoredTensors, settings: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """Tell whether the model, as it is opened, rounds what enters its modules."""
        return False

    def read_counts(self, folder: CheckpointFolder) -> tuple[str, Mapping[str, Any]]:
        """Read what the model is made by: the name of the file that says it, and its settings by key."""
        return "config.json", folder.declared

    def starts_at_zero(self, tensor: str) -> bool:  # noqa: ARG002
        """Tell whether a tensor that is zero in every place is nothing unusual."""
        return False

    def declares_bos(self, folder: CheckpointFolder) -> bool | None:
        """Tell whether its files say that BOS stands before a text; `None` if they do not say."""
        name = "tokenizer_config.json"
        flag = folder.read_json(name).get("add_bos_token") if (folder.path / name).exists() else None
        return flag if isinstance(flag, bool) else None

    def find_dtype(self, folder: CheckpointFolder) -> str | None:
        """Find the dtype of the numbers that it is opened as; `None` leaves it to transformers."""
        return folder.find_dtype() if folder.is_plain or self.dequantized else None

    def choose_file_options(self, folder: CheckpointFolder) -> dict[str, str]:  # noqa: ARG002
        """Choose which file transformers is told to read configuration, tokenizer and weights from, if any."""
        return {}

    def choose_loading_options(self, folder: CheckpointFolder, config: Any, device: str) -> dict[str, Any]:
        """Choose what else transformers is told when it loads weights.

        Quantized weights are made on the device that the model goes to, for some cannot be moved.
        """
        options: dict[str, Any] = dict(self.choose_file_options(folder))
        if self.dequantized:
            options["dtype"] = "auto"
            if isinstance(getattr(config, "quantization_config", None), dict):
                config.quantization_config["dequantize"] = True
        # Left to itself accelerate takes any accelerator that it finds.
        if "accelerate" in self.packages or device != "cpu":
            options["device_map"] = {"": device}
        return options

    def reading(self) -> AbstractContextManager[None]:
        """Be entered while transformers makes configuration, tokenizer and model of the files."""
        return nullcontext()

    def finish_(self, model: Any) -> None:
        """Bring a model that was just loaded into the state that it computes in."""

    def list_patterns(self, settings: Mapping[str, Any]) -> tuple[ModulePattern, ...]:
        """List every skip and target pattern of the configuration's quantization."""
        kinds: tuple[tuple[tuple[str, ...], Effect], ...] = (
            (self.skip_keys, "skip"),
            (self.select_keys, "select"),
        )
        return tuple(
            ModulePattern(key, text, effect)
            for keys, effect in kinds
            for key in keys
            for text in flatten(settings.get(key))
        )

    def describe(self, model: OpenModel) -> Description | None:
        """Describe how an open model is quantized; `None` if it is not."""
        settings = model.folder.quantization
        modules = {}
        for name, module in model.packed.items():
            described = self.describe_module(name, module, settings)
            if described is not None or name not in model.plain:
                modules[name] = described or QuantizedModule(module=name, bits=None)

        def find_scale(name: str, row: int, column: int, shape: tuple[int, int]) -> Scale | None:
            module = model.packed.get(name)
            return None if module is None else self.find_scale(module, row, column, shape)

        return Description(modules, self.describe_settings(settings, modules.values()), find_scale)

    def describe_settings(self, settings: Mapping[str, Any], modules: Iterable[QuantizedModule]) -> str:
        """Say in a few words what the configuration asks for."""
        return join_words(str(settings.get("format") or ""), count_bits(modules))

    def describe_module(self, name: str, module: Any, settings: Mapping[str, Any]) -> QuantizedModule | None:
        """Describe how a packed module stores its weight; `None` if it does not say."""
        bits, size = getattr(module, "bits", None), getattr(module, "group_size", settings.get("group_size"))
        if not isinstance(bits, int):
            return None
        return QuantizedModule(module=name, bits=bits, group=size if isinstance(size, int) and size > 0 else None)

    def find_scale(self, module: Any, row: int, column: int, shape: tuple[int, int]) -> Scale | None:  # noqa: ARG002
        """Find the scale of one scalar's group in a packed module, shape (out, in); `None` if unknown."""
        return None


_FORMATS: dict[str, Format] = {}


def register(kind: type[Format]) -> type[Format]:
    """Add a format to those that are asked whether they recognize a checkpoint."""
    _FORMATS[kind.method] = kind()
    return kind


def list_formats() -> tuple[Format, ...]:
    """List the formats, those first that are recognized by their files."""
    return tuple(sorted(_FORMATS.values(), key=lambda known: known.uses_config))


def find_format(folder: CheckpointFolder) -> Format:
    """Find out how a checkpoint's weights are stored."""
    known = next((known for known in list_formats() if known.recognizes(folder)), None)
    if known is None:  # one that only transformers may know
        known = Format()
        known.method = str(folder.quantization.get("quant_method") or "none")
    return known


def list_packings() -> tuple[Packing, ...]:
    """List the packings of all formats, those with names of their own first."""
    packings = dict.fromkeys(packing for known in list_formats() for packing in known.packings)
    return tuple(sorted(packings, key=lambda packing: packing.codes == ".weight"))


def list_module_packages() -> tuple[str, ...]:
    """List the beginnings of the qualified names of modules that keep their weights packed."""
    return tuple(name for known in _FORMATS.values() for name in known.module_packages)


def is_code(name: str, header: TensorHeader) -> bool:
    """Tell whether a tensor holds codes and not numbers."""
    if header.file.endswith(".gguf"):
        return False
    if name.endswith(tuple(packing.codes for packing in list_packings() if packing.codes != ".weight")):
        return True
    return name.endswith(".weight") and len(header.shape) > 1 and header.dtype not in FLOATS


def _is_part(name: str, packed: Collection[str]) -> bool:
    """Tell whether a tensor is scales and the like of a module that keeps its weight packed."""
    if name.rpartition(".")[2] == "bias":
        return False
    above = (name[: found.start()] for found in re.finditer(r"\.", name))
    return bool({*above, name.removesuffix("_scales")}.intersection(packed))


def find_packing(name: str, headers: Headers) -> tuple[str, Packing] | None:
    """Find the scales of a tensor of codes: their name, and how the two are packed."""
    for packing in list_packings():
        scales = name.removesuffix(packing.codes) + packing.scales
        if packing.scales and name.endswith(packing.codes) and scales in headers:
            return scales, packing
    return None


def hold_shape(name: str, stored: Sequence[int], expected: Sequence[int], said: str) -> Iterator[Flaw]:
    """Yield a flaw if a tensor is not of the shape that settings give it, whatever sides of one entry it has."""
    if [size for size in stored if size != 1] != [size for size in expected if size != 1]:
        found = f"its shape is {list(stored)}, and {said} makes {list(expected)}"
        yield Flaw(kind="mismatched-tensor", where=name, found=found)


def count_bits(modules: Iterable[QuantizedModule]) -> str:
    """Say which bits, groups and activations modules are stored with."""
    kinds = sorted({(module.bits, module.group, module.activations) for module in modules}, key=str)
    words = []
    for bits, group, activations in kinds:
        size = "" if group is None else f" in groups of {group}"
        entering = "" if activations is None else f", activations in {activations}"
        words.append(f"{'unknown' if bits is None else f'{bits:g}'} bits{size}{entering}")
    return " and ".join(words)


def count_dtypes(dtypes: Iterable[str]) -> str:
    """Say how many tensors are stored in which dtype."""
    return ", ".join(f"{count} tensors as {dtype}" for dtype, count in Counter(dtypes).most_common())


def join_words(*words: str) -> str:
    """Join the words that say something."""
    return ", ".join(word for word in words if word)
