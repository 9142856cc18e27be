"""A merge that is done again: by hand on the specimen, with every mistake that a merge can have."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.errors import CheckpointError
from sw_audit.files.merge import replay_merge
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.files import ReplayedMerge
from sw_audit.specimen.shipped import specimen_path

Tensors = dict[str, Tensor]
Change = Callable[[Tensors], object]
PARENT = load_file(specimen_path() / "model.safetensors")
QUERY, DOWN = "model.layers.2.self_attn.q_proj", "model.layers.1.mlp.down_proj"
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
RANK, ALPHA = 4, 8


def draw(*shape: int, seed: int) -> Tensor:
    return 0.05 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LORA = {
    module: (
        draw(RANK, PARENT[f"{module}.weight"].shape[1], seed=1),
        draw(PARENT[f"{module}.weight"].shape[0], RANK, seed=2),
    )
    for module in (QUERY, DOWN)
}


def write_adapter(folder: Path, tensors: Tensors | None = None, **settings: Any) -> Path:
    """Write an adapter as peft does; by default that of `LORA`."""
    folder.mkdir()
    if tensors is None:
        tensors = {}
        for module, (inward, outward) in LORA.items():
            tensors |= {f"{module}.lora_A.weight": inward, f"{module}.lora_B.weight": outward}
    save_file(
        {f"base_model.model.{name}": tensor for name, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    declared = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "base_model_name_or_path": "x", **settings}
    (folder / "adapter_config.json").write_text(json.dumps(declared))
    return folder


def write_model(folder: Path, tensors: Tensors) -> Path:
    shutil.copytree(specimen_path(), folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def merge(scale: float = ALPHA / RANK, dtype: torch.dtype = torch.float32) -> Tensors:
    """Merge `LORA` into the specimen in double precision, rounded once."""
    made = dict(PARENT)
    for module, (inward, outward) in LORA.items():
        weight = PARENT[f"{module}.weight"].double()
        made[f"{module}.weight"] = weight + scale * (outward.double() @ inward.double())
    return {name: tensor.to(dtype) for name, tensor in made.items()}


def replay(model: Path, adapter: Path, parent: Path | None = None) -> ReplayedMerge:
    parent = parent or specimen_path()
    ours = CheckpointFolder.require(ModelPolicy(source=str(model), adapter=str(adapter)))
    return replay_merge(ours, CheckpointFolder.require(ModelPolicy(source=str(parent))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_merge_is_what_the_parent_and_the_adapter_give(dtype: torch.dtype, tmp_path: Path) -> None:
    model, adapter = write_model(tmp_path / "m", merge(dtype=dtype)), write_adapter(tmp_path / "a")
    replayed = replay(model, adapter)
    assert (replayed.compared, replayed.touched, replayed.strays, replayed.unplaced) == (57, 2, 0, ())
    assert replayed.equal >= 55
    # Doubles are rounded otherwise than floats, here and there.
    assert all((one.ulps or 0) <= 2 and abs((one.applied or 0) - 1) < 1e-4 for one in replayed.tensors)


def test_a_merge_in_the_stored_dtype_is_found_bit_for_bit(tmp_path: Path) -> None:
    half = {name: tensor.bfloat16() for name, tensor in PARENT.items()}
    parent, made = write_model(tmp_path / "parent", half), dict(half)
    for module, (inward, outward) in LORA.items():
        made[f"{module}.weight"] = half[f"{module}.weight"] + (2.0 * (outward @ inward)).bfloat16()
    replayed = replay(write_model(tmp_path / "m", made), write_adapter(tmp_path / "a"), parent)
    assert (replayed.equal, replayed.compared, replayed.tensors) == (57, 57, ())


@pytest.mark.parametrize(("scale", "applied"), [(0.0, 0.0), (1.0, 0.5), (4.0, 2.0), (-2.0, -1.0)])
def test_how_much_of_the_change_was_applied_is_fitted(scale: float, applied: float, tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", merge(scale, torch.bfloat16))
    replayed = replay(model, write_adapter(tmp_path / "a"))
    assert {one.name for one in replayed.tensors} == {f"{module}.weight" for module in LORA}
    assert [one.applied for one in replayed.tensors] == pytest.approx([applied] * 2, abs=0.01)
    assert all(one.ulps and one.ulps > 4 for one in replayed.tensors)


def test_the_base_that_the_adapter_names_is_held_against_the_parent_by_its_files(tmp_path: Path) -> None:
    model, parent = write_model(tmp_path / "m", merge()), specimen_path()
    other = write_model(tmp_path / "other", {**PARENT, f"{HEAD}.weight": -PARENT[f"{HEAD}.weight"]})
    for number, (base, expected) in enumerate([(parent, None), (other, str(other)), ("gone", None)]):
        adapter = write_adapter(tmp_path / f"a{number}", base_model_name_or_path=str(base))
        replayed = replay(model, adapter)
        assert (replayed.base, replayed.compared) == (expected, 57)


def test_a_tensor_that_the_adapter_leaves_alone_has_to_be_the_parents(tmp_path: Path) -> None:
    made = merge()
    made[f"{HEAD}.weight"] = made[f"{HEAD}.weight"].clone()
    made[f"{HEAD}.weight"][3, 4] += 0.25
    replayed = replay(write_model(tmp_path / "m", made), write_adapter(tmp_path / "a"))
    assert (replayed.strays, [one.name for one in replayed.tensors if not one.touched]) == (1, [f"{HEAD}.weight"])


def test_rank_stabilized_scales_and_patterns_of_ranks_and_alphas_are_read(tmp_path: Path) -> None:
    made = dict(PARENT)
    for (module, (inward, outward)), alpha in zip(LORA.items(), (8, 3), strict=True):
        made[f"{module}.weight"] = PARENT[f"{module}.weight"] + alpha / math.sqrt(RANK) * (outward @ inward)
    pattern = {r"layers\.\d\.mlp\.down_proj": 3}
    adapter = write_adapter(tmp_path / "a", use_rslora=True, alpha_pattern=pattern)
    replayed = replay(write_model(tmp_path / "m", made), adapter)
    assert all((one.ulps or 0) <= 2 for one in replayed.tensors)


def test_embeddings_saved_modules_and_biases_of_the_adapter_are_read(tmp_path: Path) -> None:
    inward, outward = draw(RANK, 210, seed=3), draw(64, RANK, seed=4)
    head = draw(210, 64, seed=5)
    tensors = {
        f"{EMBEDDING}.lora_embedding_A": inward,
        f"{EMBEDDING}.lora_embedding_B": outward,
        f"{HEAD}.weight": head,
    }
    made = {**PARENT, f"{HEAD}.weight": head}
    made[f"{EMBEDDING}.weight"] = PARENT[f"{EMBEDDING}.weight"] + 2.0 * (outward @ inward).T
    replayed = replay(write_model(tmp_path / "m", made), write_adapter(tmp_path / "a", tensors))
    assert (replayed.touched, replayed.strays) == (2, 0)
    assert all((one.ulps or 0) <= 2 for one in replayed.tensors)


def test_magnitudes_of_dora_scale_each_row(tmp_path: Path) -> None:
    inward, outward = LORA[QUERY]
    magnitude = 1 + draw(64, seed=6).abs()
    tensors = {
        f"{QUERY}.lora_A.weight": inward,
        f"{QUERY}.lora_B.weight": outward,
        f"{QUERY}.lora_magnitude_vector": magnitude,
    }
    moved = PARENT[f"{QUERY}.weight"] + 2.0 * (outward @ inward)
    made = {**PARENT, f"{QUERY}.weight": moved / moved.norm(dim=1, keepdim=True) * magnitude[:, None]}
    replayed = replay(write_model(tmp_path / "m", made), write_adapter(tmp_path / "a", tensors, use_dora=True))
    assert all((one.ulps or 0) <= 4 for one in replayed.tensors)
    assert replayed.touched == 1


def test_parts_of_an_adapter_that_stand_for_nothing_are_named(tmp_path: Path) -> None:
    inward, outward = LORA[QUERY]
    lost = "model.layers.9.self_attn.q_proj"
    tensors = {f"{lost}.lora_A.weight": inward, f"{lost}.lora_B.weight": outward}
    replayed = replay(specimen_path(), write_adapter(tmp_path / "a", tensors))
    assert replayed.unplaced == (f"{lost}.weight",)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft_type": "LOHA"}, "the adapter is of type LOHA"),
        ({"init_lora_weights": "pissa_niter_4"}, "the adapter began as pissa_niter_4"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "no module's weight"),
    ],
)
def test_what_cannot_be_replayed_says_why(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    replayed = replay(specimen_path(), write_adapter(tmp_path / "a", **settings))
    assert words in (replayed.obstacle or "")
    assert replayed.compared == 0


def test_a_folder_without_an_adapter_is_one_line() -> None:
    with pytest.raises(CheckpointError, match=r"there is no adapter_config\.json in it"):
        replay(specimen_path(), specimen_path())
