"""Which formats of stored weights there are, and which package each one needs; nothing is imported to find out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sw_audit.checkpoint.source import quote_source
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.model_policy import ModelPolicy

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class StoredFormat:
    """A way to store weights that takes a library to read.

    Attributes:
        method: The `quant_method` of the configuration, or `gguf` or `lora`.
        packages: What is imported for it, each with the name that pip knows.
        extra: The extra of sw-audit that brings them.
        obstacle: Why it cannot be opened whatever is installed; `None` if it can.
        dequantized: Whether it is opened as plain floating weights, which are exactly what the codes stand for.
    """

    method: str
    packages: tuple[tuple[str, str], ...] = ()
    extra: str = ""
    obstacle: str | None = None
    dequantized: bool = False

    @property
    def mapped(self) -> bool:
        """Whether loading it takes accelerate, which then has to be told the device."""
        return _ACCELERATE in self.packages


_ACCELERATE = ("accelerate", "accelerate")
_GPTQ = ("gptqmodel", "gptqmodel")
_NOT_READ = "transformers cannot read back what that library stores"

GGUF = StoredFormat("gguf", (("gguf", "gguf"),), "gguf", dequantized=True)
ADAPTER = StoredFormat("lora", (("peft", "peft"),), "adapters")
FORMATS: dict[str, StoredFormat] = {
    one.method: one
    for one in (
        StoredFormat("bitsandbytes", (("bitsandbytes", "bitsandbytes"), _ACCELERATE), "bitsandbytes"),
        StoredFormat("torchao", (("torchao", "torchao"),), "torchao"),
        StoredFormat("compressed-tensors", (("compressed_tensors", "compressed-tensors"),), "compressed-tensors"),
        StoredFormat("gptq", (_GPTQ, ("optimum", "optimum"), _ACCELERATE), "gptq"),
        StoredFormat("awq", (_GPTQ, _ACCELERATE), "gptq"),
        StoredFormat("auto-round", (("auto_round", "auto-round"), _ACCELERATE), "auto-round"),
        StoredFormat("fp8", (_ACCELERATE,), "fp8", dequantized=True),
        StoredFormat("mxfp8", (_ACCELERATE,), "fp8", dequantized=True),
        StoredFormat("mxfp4", (_ACCELERATE,), "fp8", dequantized=True),
        StoredFormat("hqq", obstacle=_NOT_READ),
        StoredFormat("quanto", obstacle=_NOT_READ),
        GGUF,
        ADAPTER,
    )
}
"""The formats that are known to open, or not to; of others transformers may know, it is asked."""


def find_quantization(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Find what a configuration says of quantization; `None` if it says nothing."""
    parts = [config, *(part for part in (config.get("text_config"), config.get("llm_config")) if part)]
    for part in parts:
        for key in ("quantization_config", "compression_config"):
            if isinstance(part, Mapping) and isinstance(part.get(key), Mapping) and part[key]:
                found: Mapping[str, Any] = part[key]
                return found
    return None


def name_method(quantization: Mapping[str, Any]) -> str:
    """Name the method of a configuration, as transformers would."""
    if quantization.get("load_in_4bit") or quantization.get("load_in_8bit"):
        return "bitsandbytes"
    return str(quantization.get("quant_method") or "none")


def find_format(config: Mapping[str, Any]) -> StoredFormat | None:
    """Tell how a checkpoint's weights are stored, by its config.json; `None` if they are plain."""
    quantization = find_quantization(config)
    if quantization is None:
        return None
    method = name_method(quantization)
    return FORMATS.get(method) or StoredFormat(method)


def require_format(found: StoredFormat, wanted: ModelPolicy) -> None:
    """Refuse what cannot be opened here, in one line.

    Raises:
        CheckpointError: If a package is missing, with the command that installs it, or nothing can open it.
    """
    asked = quote_source(wanted)
    if found.obstacle is not None:
        remedy = "store it with another library, or give the checkpoint that it was made from"
        state = f"its weights are stored by {found.method}: {found.obstacle}"
        raise BrokenWeightsError(asked, state, remedy, kind="unknown-method", where="config.json")
    missing = [name for module, name in found.packages if find_spec(module) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        state = f"its weights are stored as {found.method}, and {' and '.join(missing)} {verb} not installed"
        raise CheckpointError(asked, state, f"install it: pip install 'sw-audit[{found.extra}]'")


def find_gguf(folder: Path, wanted: ModelPolicy) -> str | None:
    """Find the GGUF file that is asked for: the one that is named, else the only one where nothing else is.

    Raises:
        CheckpointError: If the named one is not there, or there are several and none is named.
    """
    if wanted.gguf is not None:
        if Path(wanted.gguf).name != wanted.gguf or not (folder / wanted.gguf).is_file():
            found = f"there is no file {wanted.gguf!r} in the folder"
            raise CheckpointError(quote_source(wanted), found, "correct `gguf`, a file name without folders")
        return wanted.gguf
    found_files = sorted(path.name for path in folder.glob("*.gguf"))
    if not found_files or any(folder.glob("*.safetensors")) or any(folder.glob("*.bin")):
        return None
    if len(found_files) > 1:
        found = f"there are {len(found_files)} GGUF files in the folder"
        raise CheckpointError(quote_source(wanted), found, f'name one, such as gguf = "{found_files[0]}"')
    return found_files[0]


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter and no model."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def find_base(folder: Path, wanted: ModelPolicy) -> ModelPolicy:
    """Tell which model an adapter goes on: the one that the policy names, else the one that the adapter names.

    Raises:
        CheckpointError: If neither names one.
    """
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        kind, named = settings.get("peft_type"), settings.get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        asked, found = quote_source(wanted), f"{ADAPTER_CONFIG} is not a JSON object"
        raise BrokenWeightsError(asked, found, "copy the adapter again", where=ADAPTER_CONFIG) from error
    if kind != "LORA":
        found = f"this is an adapter of type {kind}, which is no change of its base's weights"
        raise CheckpointError(quote_source(wanted), found, "give a LoRA adapter, or merge it and give the result")
    source = wanted.base or named
    if not isinstance(source, str) or not source:
        found = "this is an adapter that does not say what its base model is"
        raise CheckpointError(quote_source(wanted), found, "set `base` to the path or hub id of its base model")
    here = folder / source
    place = str(here) if not Path(source).expanduser().is_dir() and here.is_dir() else source
    fields = {"source": place, "id": "", "base": None, "parent": None, "gguf": None, "manifest": None}
    revision = None if wanted.base else settings.get("revision")
    return ModelPolicy.model_validate({**wanted.model_dump(), **fields, "revision": revision})
