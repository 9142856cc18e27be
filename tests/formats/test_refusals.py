"""Checkpoints that are broken or cannot be opened here: one clear line each, none opens in silence."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from golden.damage import PACKED, Damage, drop, lose, spoil
from support.checkpoints import Tensors, rewrite_config, rewrite_weights
from support.stored import DATA, DOWN, make, refuse

from sw_audit.checkpoint.folder import inspect_checkpoint
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.policy import ModelPolicy
from sw_audit.specimen.shipped import specimen_path

# The package without which a method is refused, and the extra that brings it.
NEEDED = {
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "torchao": ("torchao", "torchao"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
    "gptq": ("gptqmodel", "gptq"),
    "awq": ("gptqmodel", "gptq"),
    "auto-round": ("auto_round", "auto-round"),
    "fp8": ("accelerate", "fp8"),
    "mxfp4": ("accelerate", "fp8"),
}


@pytest.mark.parametrize("method", NEEDED)
def test_a_missing_package_is_one_line_with_the_command_that_installs_it(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, extra = NEEDED[method]
    shutil.copytree(specimen_path(), tmp_path / "model")
    settings = {"quant_method": method, "bits": 4, "load_in_4bit": method == "bitsandbytes"}
    rewrite_config(tmp_path / "model", quantization_config=settings)
    monkeypatch.setitem(sys.modules, package, None)
    for act in (open_checkpoint, inspect_checkpoint):
        with pytest.raises(CheckpointError) as caught:
            act(ModelPolicy(source=str(tmp_path / "model")))
        assert f"pip install 'sw-audit[{extra}]'" in str(caught.value)
        assert f"stored as {method}" in str(caught.value)
        assert package.replace("_", "-") in str(caught.value)
        assert not isinstance(caught.value, BrokenWeightsError)


def test_a_missing_package_for_gguf_and_for_adapters_is_one_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setitem(sys.modules, "peft", None)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert r"pip install 'sw-audit[gguf]'" in str(refuse(tmp_path))
    (tmp_path / "model.gguf").unlink()
    (tmp_path / "adapter_config.json").write_text("{}")
    assert r"pip install 'sw-audit[adapters]'" in str(refuse(tmp_path))


@pytest.mark.parametrize("method", ["hqq", "quanto"])
def test_what_no_library_reads_back_is_said_to_be_so(method: str, tmp_path: Path) -> None:
    shutil.copytree(specimen_path(), tmp_path / "model")
    rewrite_config(tmp_path / "model", quantization_config={"quant_method": method})
    assert "cannot read back what that library stores" in str(refuse(tmp_path / "model"))


def test_of_several_gguf_files_one_has_to_be_named_and_to_be_whole(tmp_path: Path) -> None:
    folder = make("gguf-q8_0", tmp_path)
    shutil.copyfile(folder / "specimen.gguf", folder / "other.gguf")
    assert 'name one, such as gguf = "other.gguf"' in str(refuse(folder))
    assert "no file 'third.gguf'" in str(refuse(folder, gguf="third.gguf"))
    assert "a file name without folders" in str(refuse(folder, gguf="../model/specimen.gguf"))
    opened = open_checkpoint(ModelPolicy(source=str(folder), gguf="specimen.gguf"))
    assert [file.path for file in opened.identity.files] == ["specimen.gguf"]
    path = folder / "specimen.gguf"
    path.write_bytes(path.read_bytes()[:-5000])
    error = refuse(folder, gguf="specimen.gguf")
    assert isinstance(error, BrokenWeightsError)
    assert error.kind == "unreadable"


def test_an_adapter_wants_a_base_of_its_own_shape(tmp_path: Path) -> None:
    folder = make("lora", tmp_path)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": None}))
    assert "set `base` to the path or hub id" in str(refuse(folder))
    opened = open_checkpoint(ModelPolicy(source=str(folder), base=str(specimen_path())))
    assert [file.path for file in opened.identity.files] == ["adapter_model.safetensors", "base/model.safetensors"]
    assert opened.identity.source == str(folder)
    shutil.copytree(specimen_path(), folder / "base")
    shutil.rmtree(folder / "base" / "data", ignore_errors=True)
    open_checkpoint(ModelPolicy(source=str(folder), base="base"))
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "peft_type": "PROMPT_TUNING"}))
    assert "an adapter of type PROMPT_TUNING" in str(refuse(folder))
    (folder / "adapter_config.json").write_text("{")
    assert "adapter_config.json is not a JSON object" in str(refuse(folder))


def edit_adapter(change_: Callable[[Tensors], object]) -> Damage:
    return lambda folder: rewrite_weights(folder, change_, "adapter_model.safetensors")


NAN, INFINITY = float("nan"), float("inf")
# What kind of flaw it is that the program has words for.
KINDS = {
    "codes read as floats": "codes-without-config",
    "packed layers without a config": "missing-tensor|unexpected-tensor",
    "packed codes lost": "missing-tensor",
    "scales lost": "missing-tensor",
    "scales lost of packed codes": "missing-tensor",
    "scales of another shape": "mismatched-tensor",
    "a scale that is no number": "non-finite",
    "an embedding that is no number": "non-finite",
    "a layer too many in the file": "unexpected-tensor",
    "a file that is cut off": "unreadable",
    "another method": "unknown-method",
}
WORDS = json.loads((DATA.parents[1] / "golden" / "data" / "errors-packed.json").read_text())["locate"]
# Which format, what is done to it, what kind of flaw it is and what is said.
BROKEN: dict[str, tuple[str, Damage, str, str]] = {
    "plain weights under a config": (
        "compressed-tensors-w8a8",
        lambda folder: shutil.copyfile(specimen_path() / "model.safetensors", folder / "model.safetensors"),
        "config-without-codes",
        "config.json says compressed-tensors",
    ),
    "nf4 with a block's scale that is no number": (
        "bitsandbytes-nf4",
        spoil(f"{DOWN}.weight.absmax", NAN),
        "non-finite",
        f"module '{DOWN}' gives outputs that are not finite",
    ),
    "int8 with a row's scale that is infinite": (
        "bitsandbytes-int8",
        spoil(f"{DOWN}.SCB", INFINITY),
        "non-finite",
        f"'{DOWN}",
    ),
    "nf4 without its blocks' scales": (
        "bitsandbytes-nf4",
        drop(f"{DOWN}.weight.absmax"),
        "unreadable",
        "cannot read its weights",
    ),
    "gptq without zero points": ("gptq", drop(f"{DOWN}.qzeros"), "missing-tensor", f"{DOWN}.qzeros"),
    "gptq with a scale that is no number": ("gptq", spoil(f"{DOWN}.scales", NAN), "non-finite", DOWN),
    "fp8 without scales": (
        "fp8",
        drop(f"{DOWN}.weight_scale_inv"),
        "missing-tensor",
        f"{DOWN}.weight.* has codes and no scales",
    ),
    "an adapter that is half there": (
        "lora",
        edit_adapter(lambda tensors: tensors.pop(next(iter(tensors)))),
        "missing-tensor",
        "lora_A.* is missing",
    ),
    "an adapter for other modules": (
        "lora",
        edit_adapter(lambda tensors: tensors.update(odd=torch.zeros(2, 2))),
        "unexpected-tensor",
        "odd",
    ),
    "an adapter without weights": (
        "lora",
        lose("adapter_model.safetensors"),
        "unreadable",
        "there is no adapter_model.safetensors",
    ),
    "an adapter that is no number": (
        "lora",
        edit_adapter(lambda tensors: next(iter(tensors.values())).fill_(NAN)),
        "non-finite",
        "lora_A.* holds NaN",
    ),
}


@pytest.mark.parametrize("case", KINDS)
def test_a_broken_checkpoint_of_compressed_tensors_is_refused_with_the_kind_of_its_flaw(
    case: str, tmp_path: Path
) -> None:
    name, damage = PACKED[case]
    folder = make(f"compressed-tensors-{name.lower()}", tmp_path)
    damage(folder)
    error = refuse(folder)
    assert isinstance(error, BrokenWeightsError), error
    assert error.kind in KINDS[case].split("|"), error
    assert str(error).partition(": ")[2] == WORDS[case][-1].removeprefix("sw-audit: model './model': ")


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_quantized_checkpoint_never_opens_in_silence(case: str, tmp_path: Path) -> None:
    name, damage, kind, said = BROKEN[case]
    folder = make(name, tmp_path)
    damage(folder)
    error = refuse(folder)
    assert isinstance(error, BrokenWeightsError), error
    assert error.kind in kind.split("|"), error
    assert error.where or error.kind == "unreadable"
    assert re.search(said, str(error)), error
