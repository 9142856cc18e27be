"""Real checkpoints of every format that can be made here, all from the specimen."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.quantizing import pack_fp8, pack_gguf, prune, prune_two_in_four
from transformers import AutoModelForCausalLM

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.policy.policy import ModelPolicy
from sw_audit.specimen.shipped import specimen_path

DATA = Path(__file__).parents[1] / "formats" / "data"
DOWN = "model.layers.1.mlp.down_proj"
ROW, COLUMN, VALUE = 5, 7, 3.2412285804748535
"""Where the specimen's super weight is in `DOWN`, and what it is."""


@dataclass(frozen=True)
class Stored:
    """One format.

    Attributes:
        name: What it is called.
        packages: What has to be installed to make it and to read it.
        write: Writes the specimen in it into a new folder.
        error: How far its down-projection is from the specimen's, norm over norm, at most.
        opaque: Whether modules keep their weights packed.
        rounded: Whether what enters a module is rounded.
        precise: How precisely an effective weight can be read, relative to the largest.
        streams: Whether it can be opened layer by layer.
    """

    name: str
    packages: tuple[str, ...]
    write: Callable[[Path], object]
    error: float
    opaque: bool = True
    rounded: bool = False
    precise: float = 1e-6
    streams: bool = True

    def __str__(self) -> str:
        return self.name

    def make(self, folder: Path) -> Path:
        """Write it, or skip with the name of the first missing package."""
        for package in self.packages:
            if find_spec(package) is None:
                pytest.skip(f"{package} is not installed")
        folder.mkdir(parents=True)
        with warnings.catch_warnings():
            # What other libraries warn of while they write is not what is tested.
            warnings.simplefilter("ignore")
            self.write(folder)
        for path in specimen_path().glob("tokenizer*"):
            shutil.copyfile(path, folder / path.name)
        return folder


def _quantize(settings: Callable[[], Any], dtype: str = "float32", **named: Any) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(
            specimen_path(), quantization_config=settings(), dtype=dtype, **named
        )
        model.save_pretrained(folder)

    return write


def _bitsandbytes(**settings: Any) -> Callable[[Path], object]:
    from transformers import BitsAndBytesConfig

    four = {} if "load_in_8bit" in settings else {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}
    return _quantize(lambda: BitsAndBytesConfig(**{**four, **settings}), device_map="cpu")


def _torchao(name: str, **settings: str) -> Callable[[Path], object]:
    def choose() -> Any:
        from torchao import quantization
        from transformers import TorchAoConfig

        words: Mapping[str, Any] = {"int4": torch.int4, "group": quantization.PerGroup(32)}
        return TorchAoConfig(getattr(quantization, name)(**{key: words[word] for key, word in settings.items()}))

    return _quantize(choose)


def _copy(name: str) -> Callable[[Path], object]:
    return lambda folder: shutil.copytree(DATA / name, folder, dirs_exist_ok=True)


def _edit(change: Callable[[dict[str, torch.Tensor]], object], **config: Any) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        tensors = load_file(specimen_path() / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        declared = json.loads((specimen_path() / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**declared, **config}))

    return write


def _gguf(kind: str) -> Callable[[Path], object]:
    return lambda folder: pack_gguf(specimen_path(), folder / "specimen.gguf", kind)


def _adapt(*, merged: bool) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        from peft import LoraConfig, get_peft_model

        model = AutoModelForCausalLM.from_pretrained(specimen_path())
        torch.manual_seed(1)
        adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["down_proj", "q_proj"]))
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.01)
        if merged:
            adapted.merge_and_unload().save_pretrained(folder)
        else:
            adapted.save_pretrained(folder)

    return write


_FP8 = {"quant_method": "fp8", "weight_block_size": [32, 32], "activation_scheme": "dynamic", "fmt": "e4m3"}
_CT, _BNB, _AO, _GPTQ = ("compressed_tensors",), ("bitsandbytes", "accelerate"), ("torchao",), ("gptqmodel",)

# On a CPU that multiplies bfloat16, bitsandbytes computes in it with 4 bits, whatever the model's dtype.
_NARROW = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
_FOUR: dict[str, Any] = {"rounded": _NARROW, "precise": 8e-3 if _NARROW else 1e-6}

STORED: tuple[Stored, ...] = (
    Stored("bitsandbytes-nf4", _BNB, _bitsandbytes(bnb_4bit_quant_type="nf4"), 0.09, **_FOUR),
    Stored(
        "bitsandbytes-nf4-double",
        _BNB,
        _bitsandbytes(bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
        0.09,
        **_FOUR,
    ),
    Stored("bitsandbytes-fp4", _BNB, _bitsandbytes(bnb_4bit_quant_type="fp4"), 0.1, **_FOUR),
    # Computes in float16 and rounds what enters.
    Stored(
        "bitsandbytes-int8",
        _BNB,
        _bitsandbytes(load_in_8bit=True),
        0.03,
        rounded=True,
        precise=5e-4,
        streams=False,
    ),
    Stored("torchao-int8", _AO, _torchao("Int8WeightOnlyConfig"), 0.03),
    Stored("torchao-int4", _AO, _torchao("IntxWeightOnlyConfig", weight_dtype="int4", granularity="group"), 0.1),
    Stored("torchao-fp8", _AO, _torchao("Float8WeightOnlyConfig"), 0.02),
    Stored(
        "torchao-int8-dynamic",
        _AO,
        _torchao("Int8DynamicActivationInt8WeightConfig"),
        0.03,
        rounded=True,
        streams=False,
    ),
    # GPTQ moves what it rounds away from one column into others, so that weights are far and outputs near.
    Stored("compressed-tensors-w4a16", _CT, _copy("llm-compressor-W4A16"), 0.4),
    Stored("compressed-tensors-w8a8", _CT, _copy("llm-compressor-W8A8"), 0.03, rounded=True, streams=False),
    Stored("compressed-tensors-fp8", _CT, _copy("llm-compressor-FP8"), 0.02, rounded=True, streams=False),
    # The library unpacks these into bfloat16, whatever the model's dtype.
    Stored("compressed-tensors-nvfp4a16", _CT, _copy("llm-compressor-NVFP4A16"), 0.05, precise=4e-3),
    Stored("compressed-tensors-mxfp4a16", _CT, _copy("llm-compressor-MXFP4A16"), 0.1),
    # Both compute in bfloat16 on a CPU, whatever the model's dtype.
    Stored("gptq", (*_GPTQ, "optimum"), _copy("auto-round-gptq"), 0.08, precise=8e-3),
    Stored("awq", _GPTQ, _copy("auto-round-awq"), 0.08, precise=8e-3),
    Stored("auto-round", ("auto_round",), _copy("auto-round-round"), 0.08, precise=8e-3),
    Stored("gguf-f16", ("gguf",), _gguf("F16"), 1e-3, opaque=False),
    Stored("gguf-q8_0", ("gguf",), _gguf("Q8_0"), 0.02, opaque=False),
    Stored("gguf-q4_0", ("gguf",), _gguf("Q4_0"), 0.12, opaque=False),
    Stored("fp8", ("accelerate",), _edit(pack_fp8, quantization_config=_FP8), 0.03, opaque=False),
    Stored("lora", ("peft",), _adapt(merged=False), 0.2),
    Stored("lora-merged", ("peft",), _adapt(merged=True), 0.2, opaque=False),
    Stored("sparse-2-of-4", (), _edit(prune_two_in_four), 0.2, opaque=False),
    Stored("pruned", (), _edit(prune), 0.2, opaque=False),
)


def make(name: str, folder: Path) -> Path:
    """Write the specimen in one format, by its name, into a folder of its own."""
    [stored] = [stored for stored in STORED if stored.name == name]
    return stored.make(folder / "model")


def refuse(folder: Path, **options: Any) -> CheckpointError:
    """Return the one line with which a checkpoint is refused."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(ModelPolicy.model_validate({"source": str(folder), **options}))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("model ")
    assert message.count("; ") >= 1
    return caught.value
