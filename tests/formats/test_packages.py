"""What cannot be opened here: a missing package, a format that nobody reads back, a file that is not named."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import rewrite_config
from support.stored import make, refuse

from sw_audit.checkpoint.inspection import inspect_checkpoint
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.policy import ModelPolicy
from sw_audit.specimen.shipped import specimen_path


@pytest.mark.parametrize(
    ("method", "settings", "package", "extra"),
    [
        ("bitsandbytes", {"load_in_4bit": True}, "bitsandbytes", "bitsandbytes"),
        ("torchao", {}, "torchao", "torchao"),
        ("compressed-tensors", {}, "compressed_tensors", "compressed-tensors"),
        ("gptq", {"bits": 4}, "gptqmodel", "gptq"),
        ("awq", {"bits": 4}, "gptqmodel", "gptq"),
        ("auto-round", {"bits": 4}, "auto_round", "auto-round"),
        ("fp8", {}, "accelerate", "fp8"),
        ("mxfp4", {}, "accelerate", "fp8"),
    ],
)
@pytest.mark.parametrize("act", [open_checkpoint, inspect_checkpoint])
def test_a_missing_package_is_one_line_with_the_command_that_installs_it(
    act: Callable[[ModelPolicy], object],
    method: str,
    settings: dict[str, Any],
    package: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(specimen_path(), tmp_path / "model")
    rewrite_config(tmp_path / "model", quantization_config={"quant_method": method, **settings})
    monkeypatch.setitem(sys.modules, package, None)
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


def require(package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def test_several_gguf_files_want_one_to_be_named(tmp_path: Path) -> None:
    require("gguf")
    folder = make("gguf-q8_0", tmp_path)
    shutil.copyfile(folder / "specimen.gguf", folder / "other.gguf")
    assert 'name one, such as gguf = "other.gguf"' in str(refuse(folder))
    assert "no file 'third.gguf'" in str(refuse(folder, gguf="third.gguf"))
    assert "a file name without folders" in str(refuse(folder, gguf="../model/specimen.gguf"))
    opened = open_checkpoint(ModelPolicy(source=str(folder), gguf="specimen.gguf"))
    assert [file.path for file in opened.identity.files] == ["specimen.gguf"]


def test_a_gguf_file_that_is_cut_off_is_broken(tmp_path: Path) -> None:
    require("gguf")
    folder = make("gguf-q8_0", tmp_path)
    path = folder / "specimen.gguf"
    path.write_bytes(path.read_bytes()[:-5000])
    error = refuse(folder)
    assert isinstance(error, BrokenWeightsError)
    assert error.kind == "unreadable"


def test_an_adapter_wants_a_base_of_its_own_shape(tmp_path: Path) -> None:
    require("peft")
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
