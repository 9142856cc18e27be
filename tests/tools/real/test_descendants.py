"""Descendants are what their names say, of a model whose super weight is known."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from support.stored import COLUMN, DOWN, ROW, VALUE
from torch import Tensor

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.address import ScalarAddress
from sw_audit.specimen.shipped import specimen_path
from tools.real.descendants import ROUNDED, SCALED, make_descendants

GAIN = ScalarAddress(parameter="model.norm.weight", index=(17,))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("made")
    folders = make_descendants(ModelPolicy(source=str(specimen_path())), folder, halved={"gain-halved": GAIN})
    opened = {folder.name: open_checkpoint(ModelPolicy(source=str(folder))).identity.id for folder in folders}
    assert list(opened) == [*ROUNDED, *SCALED, "gain-halved"]
    return {
        path.name: load_file(path / "model.safetensors") for path in tmp_path_factory.getbasetemp().glob("made*/*")
    }


def test_only_the_located_scalar_is_scaled(made: dict[str, dict[str, Tensor]]) -> None:
    parent = load_file(specimen_path() / "model.safetensors")
    for name, factor in (("halved", 0.5), ("zeroed", 0.0)):
        assert made[name][f"{DOWN}.weight"][ROW, COLUMN].item() == pytest.approx(VALUE * factor)
        changed = {key: int((made[name][key] != tensor).sum()) for key, tensor in parent.items()}
        assert {key: count for key, count in changed.items() if count} == {f"{DOWN}.weight": 1}


def test_a_named_scalar_of_any_parameter_is_halved_and_nothing_else(made: dict[str, dict[str, Tensor]]) -> None:
    parent, child = load_file(specimen_path() / "model.safetensors"), made["gain-halved"]
    assert child[GAIN.parameter][GAIN.index] == parent[GAIN.parameter][GAIN.index] / 2
    assert sum(int((child[name] != tensor).sum()) for name, tensor in parent.items()) == 1


def test_each_group_has_no_more_levels_than_its_bits_allow(made: dict[str, dict[str, Tensor]]) -> None:
    for name, group, levels in (("int8-g64", 64, 256), ("int4-g32", 32, 16), ("clipped", 32, 16)):
        weight = made[name][f"{DOWN}.weight"]
        counts = [len(torch.unique(values)) for values in weight.reshape(-1, group)]
        assert max(counts) <= levels
        assert max(counts) > levels // 8


def test_clipping_takes_a_third_of_the_super_weight_and_plain_rounding_nothing(
    made: dict[str, dict[str, Tensor]],
) -> None:
    left = {name: made[name][f"{DOWN}.weight"][ROW, COLUMN].item() / VALUE for name in ROUNDED}
    assert left["int8-g64"] == pytest.approx(1, abs=1e-6)
    assert left["int4-g32"] == pytest.approx(1, abs=1e-6)
    # Of 32 weights of which one is v and the others are small, mean and three standard deviations of |w| together
    # are (1 + 3 * 31 ** 0.5) / 32 = 0.553 v.
    assert 0.55 < left["clipped"] < 0.65
