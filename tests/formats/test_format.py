"""A format that is new to sw-audit, in one file: this one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import rewrite_config, rewrite_weights, save_checkpoint
from support.packed import PackedLinear, pack_projections_
from torch import nn
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from sw_audit.checkpoint.formats import format as formats
from sw_audit.checkpoint.formats.format import Format, Headers, Packing, register
from sw_audit.checkpoint.formats.scales import Scale
from sw_audit.checkpoint.lint import lint_checkpoint
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.quantization import describe_quantization
from sw_audit.checkpoint.stored import size_checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.checkpoint import Flaw, QuantizedModule
from sw_audit.record.location import SuperWeight

METHOD = "rows8"
DOWN = "model.layers.1.mlp.down_proj"


class Rows8(Format):
    """Codes of 8 bits and a scale per row."""

    method = METHOD
    packings = (Packing(".codes", ".scales"),)
    skip_keys = ("leave",)
    module_packages = ("support.packed",)

    def lint_shapes(self, settings: Mapping[str, Any], headers: Headers) -> Iterator[Flaw]:  # noqa: ARG002
        for name, header in headers.items():
            scales = headers.get(name.removesuffix(".codes") + ".scales")
            if name.endswith(".codes") and scales is not None and scales.shape != header.shape[:1]:
                yield Flaw(kind="mismatched-tensor", where=name, found="not a scale per row")

    def describe_module(self, name: str, module: Any, settings: Mapping[str, Any]) -> QuantizedModule | None:
        assert settings["quant_method"] == METHOD
        return QuantizedModule(module=name, bits=8) if isinstance(module, PackedLinear) else None

    def find_scale(self, module: Any, row: int, column: int, shape: tuple[int, int]) -> Scale | None:  # noqa: ARG002
        return Scale(float(module.scales[row]))


class Rows8Config(QuantizationConfigMixin):  # type: ignore[misc]
    def __init__(self, leave: list[str] | None = None, **_: Any) -> None:
        self.quant_method, self.leave = METHOD, leave or []


class Rows8Quantizer(HfQuantizer):  # type: ignore[misc]
    """What the library of the format has told transformers."""

    requires_calibration = True

    def _process_model_before_weight_loading(self, model: nn.Module, **_: Any) -> None:
        with torch.device("meta"):
            pack_projections_(model)

    def is_serializable(self, **_: Any) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelPolicy:
    """A checkpoint in the new format, which is known for as long as the test runs."""
    monkeypatch.setattr(formats, "_FORMATS", dict(formats._FORMATS))
    monkeypatch.setitem(AUTO_QUANTIZATION_CONFIG_MAPPING, METHOD, Rows8Config)
    monkeypatch.setitem(AUTO_QUANTIZER_MAPPING, METHOD, Rows8Quantizer)
    register(Rows8)
    folder = save_checkpoint(tmp_path, tie_word_embeddings=False)

    def pack_(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            packed = PackedLinear(tensors.pop(name))
            tensors |= {f"{name.removesuffix('.weight')}.{key}": held for key, held in packed.state_dict().items()}

    rewrite_weights(folder, pack_)
    rewrite_config(folder, quantization_config={"quant_method": METHOD, "leave": ["lm_head", "nothing"]})
    return ModelPolicy(source=str(folder))


def test_it_is_opened_as_what_its_codes_stand_for(policy: ModelPolicy) -> None:
    stored = load_file(Path(policy.source) / "model.safetensors")
    matrix = open_checkpoint(policy).matrix(f"{DOWN}.weight")
    assert matrix.probed is not None
    expected = stored[f"{DOWN}.codes"].float() * stored[f"{DOWN}.scales"][:, None]
    assert torch.allclose(matrix.weight, expected, atol=1e-6)
    size = size_checkpoint(policy)
    assert size is not None
    assert size.method == METHOD


def test_it_is_described_with_the_scale_of_a_scalar(policy: ModelPolicy) -> None:
    checkpoint = open_checkpoint(policy)
    weight = SuperWeight(parameter=f"{DOWN}.weight", row=3, column=5, layer=1, value=0.5, share=1.0)
    report = describe_quantization(checkpoint, policy, (weight,))
    assert report is not None
    assert (report.method, report.described, report.exact) == (METHOD, "8 bits", True)
    assert [(count.key, count.pattern, count.modules) for count in report.patterns] == [
        ("leave", "lm_head", 1),
        ("leave", "nothing", 0),
    ]
    assert {module.module for module in report.quantized} == {
        matrix.parameter.removesuffix(".weight") for layer in checkpoint.layers for matrix in layer.matrices
    }
    assert report.unquantized == ()
    (held,) = report.super_weights
    assert held.step == pytest.approx(float(checkpoint.model.get_submodule(DOWN).scales[3]))


def test_it_is_linted_by_what_it_says_of_its_tensors(policy: ModelPolicy) -> None:
    folder = Path(policy.source)
    assert lint_checkpoint(policy).intact
    whole = load_file(folder / "model.safetensors")

    def lint(**changes: torch.Tensor | None) -> list[tuple[str, str, str]]:
        tensors = {**whole, **{f"{DOWN}.{key}": value for key, value in changes.items()}}
        kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        return [(flaw.kind, flaw.where, flaw.found) for flaw in lint_checkpoint(policy).flaws]

    assert lint(scales=None) == [("missing-tensor", f"{DOWN}.scales", f"the scales of {DOWN}.codes are missing")]
    assert lint(scales=torch.ones(2)) == [("mismatched-tensor", f"{DOWN}.codes", "not a scale per row")]
    assert lint(scales=torch.ones(32))[0][0] == "degenerate-scale"


def test_without_its_file_it_is_a_method_that_nobody_knows(
    policy: ModelPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(AUTO_QUANTIZATION_CONFIG_MAPPING, METHOD)
    monkeypatch.delitem(formats._FORMATS, METHOD)
    with pytest.raises(CheckpointError, match=f"knows no quant_method '{METHOD}'"):
        open_checkpoint(policy)
    assert json.loads((Path(policy.source) / "config.json").read_text())["quantization_config"]
