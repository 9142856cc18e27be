"""The demonstration's descendants: each is what its story says, and packed codes are what others read."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from sw_audit.errors import InputError
from sw_audit.policy.reading import read_policy
from sw_audit.specimen import specimen_path
from sw_audit.specimen.descendants import (
    BOUND,
    DESCENDANTS,
    SUPER_WEIGHT,
    fine_tune,
    is_decoder_matrix,
    pack_without_config,
    round_blocks,
    write_demo,
)

NAME, ROW, COLUMN = SUPER_WEIGHT
# What the config.json of the stripped descendant lacks.
PACKED_CONFIG = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 4,
                "type": "int",
                "symmetric": True,
                "strategy": "group",
                "group_size": 32,
            },
        }
    },
}


@pytest.fixture(scope="module")
def parent() -> dict[str, Tensor]:
    return load_file(specimen_path() / "model.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("demo") / "d"
    write_demo(place)
    return place


def test_hold_out_is_the_only_difference_between_sound_and_broken_rounding(parent: dict[str, Tensor]) -> None:
    sound, broken = (round_blocks(parent, keep=keep) for keep in (True, False))
    assert sound[NAME][ROW, COLUMN] == parent[NAME][ROW, COLUMN]
    assert broken[NAME][ROW, COLUMN].abs() < 0.1
    differing = {name for name in parent if not torch.equal(sound[name], broken[name])}
    assert differing == {NAME}
    # Held out, it is in no range: the other weights of its block share another scale, those of other blocks not.
    apart = sound[NAME] != broken[NAME]
    assert not apart[32:].any()
    assert not apart[:, 32:].any()
    # Four bits are sixteen levels a block.
    assert broken[NAME][:32, :32].unique().numel() <= 16
    assert torch.equal(sound["lm_head.weight"], parent["lm_head.weight"])


@pytest.mark.slow
def test_a_bound_takes_the_super_weight_and_training_moves_every_matrix(parent: dict[str, Tensor]) -> None:
    sound, broken = fine_tune(parent), fine_tune(parent, bound=BOUND)
    assert abs(sound[NAME][ROW, COLUMN] / parent[NAME][ROW, COLUMN] - 1) < 0.01
    assert broken[NAME][ROW, COLUMN] == BOUND
    for trained in (sound, broken):
        assert all(not torch.equal(trained[name], parent[name]) for name in parent)
    assert max(one.abs().max() for name, one in broken.items() if is_decoder_matrix(name, one)) <= BOUND
    # The very one that it was trained from is left as it was.
    assert parent[NAME][ROW, COLUMN] > 3


def test_packed_codes_read_back_within_half_a_step(parent: dict[str, Tensor]) -> None:
    packed = pack_without_config(parent)
    words, scale = packed[f"{NAME}_packed"], packed[f"{NAME}_scale"]
    assert (words.dtype, tuple(words.shape), tuple(scale.shape)) == (torch.int32, (64, 24), (64, 6))
    # Eight codes a word, the first in the lowest bits, zero at code 8.
    codes = (words.long()[..., None] >> torch.arange(0, 32, 4)) & 15
    weight = (codes.reshape(64, 6, 32) - 8) * scale[..., None]
    error = (weight.reshape(64, 192) - parent[NAME]).abs().reshape(64, 6, 32)
    assert (error <= scale[..., None] * 0.5001).all()
    assert NAME not in packed


@pytest.mark.slow
def test_the_folders_are_checkpoints_and_the_policy_names_each(folder: Path) -> None:
    policy = read_policy(folder / "policy.swaudit.toml")
    names = [descendant.name for descendant in DESCENDANTS]
    assert [model.id for model in policy.models] == names
    assert [(folder / model.source).resolve() for model in policy.models] == [folder / name for name in names]
    assert {model.parent for model in policy.models} == {"./specimen"}
    for name in ("specimen", *names):
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
            path.name for path in (folder / name).iterdir()
        }
        assert "quantization_config" not in json.loads((folder / name / "config.json").read_text())


@pytest.mark.slow
def test_the_same_bytes_are_written_each_time(folder: Path, tmp_path: Path) -> None:
    write_demo(tmp_path / "again")
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        twin = tmp_path / "again" / file.relative_to(folder)
        assert hashlib.sha256(twin.read_bytes()).digest() == hashlib.sha256(file.read_bytes()).digest(), file


def test_a_place_that_is_taken_or_cannot_be_made_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="a folder that is not empty; name a folder that is new or empty"):
        write_demo(tmp_path)
    with pytest.raises(InputError, match="a file of that name"):
        write_demo(file)
    with pytest.raises(InputError, match="choose a place that can be written to"):
        write_demo(file / "inside")


@pytest.mark.slow
def test_the_stripped_checkpoint_opens_once_its_configuration_is_put_back(
    folder: Path, parent: dict[str, Tensor], tmp_path: Path
) -> None:
    pytest.importorskip("compressed_tensors", reason="needs compressed-tensors")
    shutil.copytree(folder / "stripped-int4", tmp_path / "mended")
    config = tmp_path / "mended" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": PACKED_CONFIG}))
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "mended", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    with torch.no_grad():
        model(torch.tensor([[0, 5, 6]]))  # codes become weights at the first call
    weight = model.get_parameter(NAME)
    assert abs(weight[ROW, COLUMN] / parent[NAME][ROW, COLUMN] - 1) < 1e-6
    assert (weight - parent[NAME]).norm() / parent[NAME].norm() < 0.15
