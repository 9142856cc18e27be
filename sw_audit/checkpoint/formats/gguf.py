"""GGUF, the files of llama.cpp, which transformers opens dequantized."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sw_audit.checkpoint.formats.format import (
    CannotStreamError,
    Decoded,
    Description,
    Format,
    OpenModel,
    count_dtypes,
    register,
)
from sw_audit.checkpoint.formats.scales import Scale
from sw_audit.checkpoint.gguf_mixture import hold_mixture
from sw_audit.checkpoint.headers import FLOATS
from sw_audit.errors import CheckpointError
from sw_audit.gguf_file import read_gguf
from sw_audit.record.checkpoint import QuantizedModule

if TYPE_CHECKING:
    from torch import Tensor

    from sw_audit.checkpoint.folder import CheckpointFolder
    from sw_audit.checkpoint.stored import StoredTensors

# Kinds with one scale per block; the others nest scales in scales.
_SIMPLE = ("Q8_0", "Q4_0")


@register
class Gguf(Format):
    """One file with configuration, tokenizer and weights."""

    method = "gguf"
    packages = ("gguf",)
    extra = "gguf"
    uses_config = False
    declared_bos_counts = True
    dequantized = True

    def recognizes(self, folder: CheckpointFolder) -> bool:
        """Tell whether a file is named, or there is nothing else."""
        return _find_file(folder) is not None

    def list_files(self, folder: CheckpointFolder) -> tuple[Path, ...]:
        """List the one file."""
        return (folder.path / self.choose_file_options(folder)["gguf_file"],)

    def choose_file_options(self, folder: CheckpointFolder) -> dict[str, str]:
        """Choose the file."""
        return {"gguf_file": _find_file(folder) or ""}

    def declares_bos(self, folder: CheckpointFolder) -> bool | None:
        """Read the file's own flag, where the tokenizer is the file's own."""
        if folder.has_tokenizer:
            return None
        (file,) = folder.weight_files
        field = read_gguf(file).get_field("tokenizer.ggml.add_bos_token")
        return None if field is None else bool(field.contents())

    def find_dtype(self, folder: CheckpointFolder) -> str | None:
        """Find the narrowest dtype that holds its weights: bfloat16 where they all are, else float32.

        Converters write the weights of norms as float32 also where the model had them in bfloat16.
        """
        (file,) = folder.weight_files
        tensors = read_gguf(file).tensors
        kinds = {tensor.tensor_type.name for tensor in tensors}
        if "BF16" not in kinds or not kinds <= {"BF16", "F32"}:
            return "float32"
        # The upper half of a float32 is a bfloat16.
        wide = any(
            (np.ascontiguousarray(tensor.data).view(np.uint32) & 0xFFFF).any()
            for tensor in tensors
            if tensor.tensor_type.name == "F32"
        )
        return "float32" if wide else "bfloat16"

    def list_decoded(
        self, folder: CheckpointFolder, stored: StoredTensors, model: Callable[[], Any]
    ) -> dict[str, Decoded]:
        """List the tensors by the names and in the layouts that transformers gives them, float32.

        Each is made as transformers makes it of all, by its own table of names and its own processor.
        """
        import torch
        from transformers import modeling_gguf_pytorch_utils

        library: Any = modeling_gguf_pytorch_utils
        (path,) = folder.weight_files
        kind = read_gguf(path).get_field("general.architecture").contents()
        if _converts_otherwise(kind):
            raise CannotStreamError(f"transformers reads GGUF files of {kind} in another way")
        try:
            with self.reading():
                make_processor = library.TENSOR_PROCESSORS.get(kind, library.TensorProcessor)
                processor = make_processor(config=library.load_gguf_checkpoint(str(path))["config"])
                names: dict[str, str] = library.get_gguf_hf_weights_map(model(), processor)
        except Exception as error:  # of which opening it whole says more
            raise CannotStreamError(f"transformers cannot tell the names of its tensors ({error})") from error
        sources = defaultdict[str, list[str]](list)
        for name in stored.headers:
            # Parameters that hold all experts have no suffix. What the model has not, the library leaves out.
            if (target := names.get(name) or names.get(name.removesuffix(".weight"))) is not None:
                sources[target].append(name)

        def make(target: str, read: Callable[[str], Any]) -> Tensor:
            made: dict[str, dict[str, Tensor]] = {"tensors": {}}
            for name in sources[target]:
                done = processor.process(
                    weights=read(name), name=name, tensor_key_mapping=names, parsed_parameters=made
                )
                if done.name in names:
                    made["tensors"][names[done.name]] = torch.from_numpy(done.weights)
            return made["tensors"][target]

        def read_numbers(name: str) -> Any:
            if (tensor := stored.read(name)) is None:
                raise CannotStreamError(f"tensor {name!r} is stored as {stored.headers[name].dtype}")
            return tensor.numpy()

        # Layers are alike, and so are the shapes of what is made of them.
        shapes: dict[tuple[tuple[str, tuple[int, ...]], ...], tuple[int, ...]] = {}
        decoded = {}
        for target, parts in sources.items():
            alike = tuple((re.sub(r"\d+", "", name), stored.headers[name].shape) for name in parts)
            if alike not in shapes:
                try:
                    with np.errstate(all="ignore"):
                        empty = make(target, lambda name: np.zeros(stored.headers[name].shape, np.int8))
                except Exception as error:
                    found = f"tensor {target!r} is not made of its own parts alone ({type(error).__name__})"
                    raise CannotStreamError(found) from error
                shapes[alike] = tuple(empty.shape)
            decoded[target] = Decoded(partial(make, target, read_numbers), shapes[alike])
        return decoded

    def read_counts(self, folder: CheckpointFolder) -> tuple[str, Mapping[str, Any]]:
        """Read the numbers in the file's metadata."""
        (file,) = folder.weight_files
        fields = {key: field for key, field in read_gguf(file).fields.items() if not key.startswith("tokenizer.")}
        return file.name, {key: {key.rpartition(".")[2]: field.contents()} for key, field in fields.items()}

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let the library read the file's metadata once, and not once for each of what it makes of them.

        Of some architectures it reads them anew for configuration, tokenizer and weights, and makes a table of all
        names for every module of the model.
        """
        import gguf

        stored = gguf.GGUFReader, gguf.get_tensor_name_map
        gguf.GGUFReader, gguf.get_tensor_name_map = read_gguf, cache(gguf.get_tensor_name_map)
        try:
            yield
        finally:
            gguf.GGUFReader, gguf.get_tensor_name_map = stored

    def choose_loading_options(self, folder: CheckpointFolder, config: Any, device: str) -> dict[str, Any]:  # noqa: ARG002
        """Choose the file, and that its weights are plain once they are read."""
        import transformers

        # Where it has kernels the library leaves weights packed unless it is told; older ones have no such choice.
        known = getattr(transformers, "GgufConfig", None)
        plain = {} if known is None else {"quantization_config": known(dequantize=True)}
        return {**self.choose_file_options(folder), **plain}

    def finish_(self, model: Any) -> None:
        """Let the library know that the weights are plain numbers now, or it will not save them."""
        if (quantizer := getattr(model, "hf_quantizer", None)) is not None:
            quantizer.remove_quantization_config(model)

    def describe(self, model: OpenModel) -> Description | None:
        """Describe how each decoder matrix is stored, under the name that it has in the file."""
        from gguf import GGML_QUANT_SIZES, MODEL_ARCH_NAMES, get_tensor_name_map

        (file,) = model.folder.weight_files
        reader = read_gguf(file)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        family = next((arch for arch, name in MODEL_ARCH_NAMES.items() if name == model.family), None)
        names = None if family is None else get_tensor_name_map(family, model.layers)
        modules, stored = {}, {}
        for parameter in model.parameters:
            name = None if names is None else names.get_name(parameter, try_suffixes=(".weight",))
            kind = tensors[name].tensor_type if name in tensors else None
            if kind is None or kind.name in FLOATS:
                continue
            count, size = GGML_QUANT_SIZES[kind]
            module = parameter.removesuffix(".weight")
            modules[module] = QuantizedModule(module=module, bits=8 * size / count, group=count)
            stored[module] = tensors[name]

        def find_scale(module: str, row: int, column: int, shape: tuple[int, int]) -> Scale | None:
            tensor = stored.get(module)
            if tensor is None or tensor.tensor_type.name not in _SIMPLE:
                return None
            count, size = GGML_QUANT_SIZES[tensor.tensor_type]
            data = np.asarray(tensor.data).reshape(-1).view(np.uint8)
            begin = (row * shape[1] + column) // count * size
            return Scale(float(data[begin : begin + 2].view(np.float16)[0]))

        words = count_dtypes(tensor.tensor_type.name for tensor in tensors.values())
        contradictions = hold_mixture(file, reader)
        return Description(modules, words, find_scale, contradictions) if modules or contradictions else None


def _converts_otherwise(kind: str) -> bool:
    """Tell whether transformers has operations of its own for an architecture, which older versions have not."""
    try:
        from transformers.integrations.gguf.utils import is_gguf_arch_supported
    except ImportError:
        return False
    return bool(is_gguf_arch_supported(kind))


def _find_file(folder: CheckpointFolder) -> str | None:
    if folder.file is not None:
        return folder.file.name if folder.file.suffix == ".gguf" else None
    named = folder.policy.gguf
    if named is not None:
        if Path(named).name != named or not (folder.path / named).is_file():
            found = f"there is no file {named!r} in the folder"
            raise CheckpointError(folder.asked, found, "correct `gguf`, a file name without folders")
        return named
    files = sorted(path.name for path in folder.path.glob("*.gguf"))
    if not files or any(folder.path.glob("*.safetensors")) or any(folder.path.glob("*.bin")):
        return None
    if len(files) > 1:
        found = f"there are {len(files)} GGUF files in the folder"
        raise CheckpointError(folder.asked, found, f'name one, such as gguf = "{files[0]}"')
    return files[0]
