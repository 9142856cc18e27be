"""What a descendant's tensors are, beside its parent's: planted truth on the specimen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.checkpoints import rewrite_weights
from support.quantizing import prune, prune_two_in_four
from torch import Tensor

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.formats.scales import multiply
from sw_audit.files.tensors import compare_tensors
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.files import ComparedTensors
from sw_audit.specimen.shipped import specimen_path

Tensors = dict[str, Tensor]
Change = Callable[[Tensors], object]
PARENT = load_file(specimen_path() / "model.safetensors")
GATE, QUERY, OUTPUT = (
    f"model.layers.2.{part}.weight" for part in ("mlp.gate_proj", "self_attn.q_proj", "self_attn.o_proj")
)
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.layers.3.input_layernorm.weight"
HEADS, WIDTH = 4, 16
OTHER_GATE, OTHER_NORM = (
    name.replace("layers.2", "layers.4").replace("layers.3", "layers.4") for name in (GATE, NORM)
)


@pytest.fixture
def compare(tmp_path: Path) -> Callable[..., ComparedTensors]:
    """Compare the specimen after a change of its tensors with the specimen."""

    def compare(change: Change) -> ComparedTensors:
        shutil.copytree(specimen_path(), tmp_path / "model")
        rewrite_weights(tmp_path / "model", change)
        return compare_tensors(find(tmp_path / "model"), find(specimen_path()))

    return compare


def find(folder: Path) -> CheckpointFolder:
    return CheckpointFolder.require(ModelPolicy(source=str(folder)))


def negate_row(name: str, row: int) -> Change:
    return lambda tensors: tensors[name][row].neg_()


def scale_groups(weight: torch.Tensor) -> torch.Tensor:
    return weight.unflatten(1, (-1, 32)).abs().amax(2, keepdim=True) / 7


def round_with(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """Round a gate to 4 bits in groups of 32, and multiply the codes by scales that were changed."""

    def round_(weight: torch.Tensor) -> torch.Tensor:
        scales = scale_groups(weight)
        codes = (weight.unflatten(1, (-1, 32)) / scales).round()
        return (codes * change(scales)).flatten(1)

    return replace(GATE, round_)


def swap(first: str, second: str) -> Change:
    return lambda tensors: tensors.update({first: tensors[second], second: tensors[first].clone()})


def copy(source: str, target: str) -> Change:
    return lambda tensors: tensors.update({target: tensors[source].clone()})


def replace(name: str, make: Callable[[Tensor], Tensor]) -> Change:
    return lambda tensors: tensors.update({name: make(tensors[name]).contiguous()})


def swap_heads(weight: Tensor) -> Tensor:
    """Put the first head behind the second."""
    heads = weight.view(HEADS, WIDTH, -1)
    return heads[[1, 0, 2, 3]].reshape(weight.shape)


def copy_layer(source: int, target: int) -> Change:
    def change(tensors: Tensors) -> None:
        for name in list(tensors):
            if f".layers.{source}." in name:
                tensors[name.replace(f".{source}.", f".{target}.")] = tensors[name].clone()

    return change


def remove_layer(tensors: Tensors) -> None:
    """Take out layer 2; what follows moves up, and no layer 5 is left."""
    for layer in range(2, 5):
        copy_layer(layer + 1, layer)(tensors)
    for name in [name for name in tensors if ".layers.5." in name]:
        del tensors[name]


def draw_noise(shape: torch.Size, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


BROKEN: dict[str, tuple[Change, str, dict[str, object]]] = {
    "a row negated": (negate_row(GATE, 7), "flipped", {"name": GATE, "axis": "rows", "indices": (7,)}),
    "a token's row negated": (negate_row(EMBEDDING, 33), "flipped", {"name": EMBEDDING, "indices": (33,)}),
    "a column negated": (
        replace(OUTPUT, lambda w: w * (torch.arange(64) != 9).mul(2).sub(1)),
        "flipped",
        {"axis": "columns"},
    ),
    "a matrix negated": (replace(GATE, torch.neg), "negated", {"name": GATE, "axis": None}),
    "a matrix that was made anew for the most part": (
        replace(GATE, lambda w: w + 1.2 * w.std() * draw_noise(w.shape)),
        "apart",
        {"name": GATE},
    ),
    "a norm of ones": (replace(NORM, torch.ones_like), "constant", {"name": NORM}),
    "a norm negated": (replace(NORM, torch.neg), "negated", {"name": NORM}),
    "norms swapped": (swap(NORM, OTHER_NORM), "swapped", {"name": NORM, "nearest": OTHER_NORM}),
    "a norm copied": (copy(NORM, OTHER_NORM), "copied", {"name": OTHER_NORM, "nearest": NORM}),
    "matrices swapped": (swap(GATE, OTHER_GATE), "swapped", {"name": GATE, "nearest": OTHER_GATE}),
    "a matrix copied": (copy(GATE, OTHER_GATE), "copied", {"name": OTHER_GATE, "nearest": GATE}),
    "embedding and head swapped": (swap(EMBEDDING, HEAD), "swapped", {"name": HEAD, "nearest": EMBEDDING}),
    "a token's row zeroed": (
        replace(EMBEDDING, lambda w: w * (torch.arange(210) != 77)[:, None]),
        "zeroed",
        {"name": EMBEDDING, "indices": (77,)},
    ),
    "twenty rows zeroed": (
        replace(GATE, lambda w: w * (torch.arange(192) >= 20)[:, None]),
        "zeroed",
        {"name": GATE, "count": 20, "of": 192},
    ),
    "a row of one number": (
        replace(GATE, lambda w: torch.where((torch.arange(192) == 3)[:, None], 0.1, w)),
        "repeated",
        {"indices": (3,)},
    ),
    "tokens swapped": (
        replace(EMBEDDING, lambda w: w[[*range(10), 20, *range(11, 20), 10, *range(21, 210)]]),
        "exchanged",
        {"indices": (10, 20), "nearest": "20"},
    ),
    "a word's row copied": (
        replace(EMBEDDING, lambda w: w[[*range(100), 101, *range(101, 210)]]),
        "doubled",
        {"name": EMBEDDING, "indices": (100,), "nearest": "101", "of": 210},
    ),
    "the scales of the row before": (round_with(lambda scales: scales.roll(1, 0)), "rescaled", {"name": GATE}),
    "the scales of another layer": (
        round_with(lambda _: scale_groups(PARENT[OTHER_GATE])),
        "rescaled",
        {"name": GATE},
    ),
    "transposed": (replace(QUERY, torch.t), "transposed", {"name": QUERY}),
    "turned": (replace(QUERY, lambda w: w.flip(0, 1)), "turned", {"name": QUERY}),
    "rows reversed": (replace(QUERY, lambda w: w.flip(0)), "exchanged", {"axis": "rows", "of": 64}),
    "columns reversed": (replace(QUERY, lambda w: w.flip(1)), "exchanged", {"axis": "columns"}),
    "heads permuted": (replace(QUERY, swap_heads), "exchanged", {"name": QUERY, "axis": "rows", "nearest": "16"}),
    "heads permuted on the way out": (
        replace(OUTPUT, lambda w: swap_heads(w.T).T),
        "exchanged",
        {"axis": "columns"},
    ),
    "a matrix doubled": (replace(GATE, lambda w: 2 * w), "scaled", {"name": GATE, "other": pytest.approx(2)}),
    "another model's": (replace(GATE, lambda w: draw_noise(w.shape)), "unrelated", {"name": GATE}),
    "one layer repeated": (copy_layer(1, 2), "copied", {"name": GATE, "nearest": GATE.replace("2", "1")}),
    "one layer removed": (remove_layer, "missing", {"name": "model.layers.5", "count": 9}),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_was_done_to_a_tensor_is_named(what: str, compare: Callable[..., ComparedTensors]) -> None:
    change, kind, facts = BROKEN[what]
    found = compare(change)
    named = [one for one in found.changed if one.change == kind and one.serious]
    assert any(facts.items() <= one.model_dump().items() for one in named), found
    assert found.serious


def test_of_what_was_changed_nothing_else_is_said(compare: Callable[..., ComparedTensors]) -> None:
    found = compare(swap(GATE, OTHER_GATE))
    assert (found.counts, found.compared, found.equal) == ({"swapped": 2}, 57, 55)


def round_to(bits: int, group: int) -> Change:
    def change(tensors: Tensors) -> None:
        for name, weight in tensors.items():
            if weight.ndim == 2:
                parts = weight.view(-1, group)
                scales = parts.abs().amax(1, keepdim=True).clamp_min(1e-9) / (2 ** (bits - 1) - 1)
                tensors[name] = ((parts / scales).round() * scales).view(weight.shape)

    return change


def cast(dtype: torch.dtype) -> Change:
    return lambda tensors: tensors.update({name: weight.to(dtype) for name, weight in tensors.items()})


def train(tensors: Tensors) -> None:
    """Move every tensor a little, as fine-tuning does, norms in one direction."""
    for name, weight in tensors.items():
        noise = 0.05 * draw_noise(weight.shape, len(name)) * weight.std()
        tensors[name] = weight * 1.03 if weight.ndim < 2 else weight + noise


def rotate(tensors: Tensors) -> None:
    """Rotate the residual stream, the gains of norms in the matrices after them."""
    turn = torch.linalg.qr(draw_noise(torch.Size((64, 64)))).Q
    for name, weight in list(tensors.items()):
        layer = name.split(".mlp")[0].split(".self_attn")[0]
        if name.endswith("norm.weight"):
            tensors[name] = torch.ones_like(weight)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            tensors[name] = turn.T @ weight
        elif name == EMBEDDING:
            tensors[name] = weight @ turn
        else:
            norm = "post_attention_layernorm" if ".mlp." in name else "input_layernorm"
            gain = PARENT["model.norm.weight" if name == HEAD else f"{layer}.{norm}.weight"]
            tensors[name] = weight * gain @ turn


def fold(tensors: Tensors) -> None:
    """Put the gains of one norm into the matrices that follow."""
    gain = PARENT[NORM]
    for part in "qkv":
        tensors[f"model.layers.3.self_attn.{part}_proj.weight"] *= gain
    tensors[NORM] = torch.ones_like(gain)


def scale(tensors: Tensors) -> None:
    """Double one matrix of each layer and halve another, which comes to the same."""
    for name, weight in tensors.items():
        if name.endswith(("up_proj.weight", "down_proj.weight")):
            weight.mul_(2 if "up" in name else 0.5)


def add_tokens(tensors: Tensors) -> None:
    tensors["model.embed_tokens.weight"] = torch.cat([tensors[EMBEDDING], torch.zeros(6, 64)])


def begin_token(tensors: Tensors) -> None:
    """Begin a special token as a copy of a word, as is done before training."""
    tensors[EMBEDDING][0] = tensors[EMBEDDING][120]


def fold_columns(tensors: Tensors) -> None:
    """Multiply the columns of one matrix by factors, as AWQ does, and its rows by others; then round to 4 bits."""
    columns, rows = (torch.exp(0.2 * draw_noise(torch.Size(size))) for size in ((64,), (192, 1)))
    tensors[GATE] = tensors[GATE] * columns * rows
    round_with(lambda scales: scales)(tensors)


SOUND: dict[str, Change] = {
    "a special token begun as a word": begin_token,
    "one matrix folded and rounded": fold_columns,
    "one matrix rounded": round_with(lambda scales: scales),
    "as it was": lambda _: None,
    "4 bits": round_to(4, 32),
    "2 bits": round_to(2, 16),
    "8 bits in long groups": round_to(8, 64),
    "bfloat16": cast(torch.bfloat16),
    "float16": cast(torch.float16),
    "trained": train,
    "a quarter pruned": prune,
    "two in four pruned": prune_two_in_four,
    "rotated": rotate,
    "gains folded": fold,
    "scales moved between the matrices of each layer": scale,
    "six tokens more": add_tokens,
}


@pytest.mark.parametrize("what", SOUND)
def test_what_sound_compression_and_training_do_is_nothing_serious(
    what: str, compare: Callable[..., ComparedTensors]
) -> None:
    found = compare(SOUND[what])
    assert found.counts == {}, found
    assert found.compared == 57


def write_adapter(folder: Path, base: Path) -> CheckpointFolder:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base)})
    )
    return find(folder)


def test_an_adapters_base_that_is_not_the_parent_by_its_files_is_compared_in_its_place(tmp_path: Path) -> None:
    same, other = tmp_path / "same", tmp_path / "other"
    shutil.copytree(specimen_path(), same)
    shutil.copytree(specimen_path(), other)
    rewrite_weights(other, swap(GATE, OTHER_GATE))
    found = compare_tensors(write_adapter(tmp_path / "on same", same), find(specimen_path()))
    assert (found.base, found.compared, len(found.uncompared)) == (None, 0, 1)
    found = compare_tensors(write_adapter(tmp_path / "on other", other), find(specimen_path()))
    assert (found.base, found.compared, found.counts) == (str(other), 57, {"swapped": 2})


def test_a_block_of_small_floats_has_one_scale_and_the_last_ones_are_cut_off() -> None:
    scaled = multiply(torch.ones(3, 5), torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    assert scaled is not None
    assert scaled.tolist() == [[1, 1, 2, 2, 3], [1, 1, 2, 2, 3], [4, 4, 5, 5, 6]]
    assert multiply(torch.ones(2, 2), torch.ones(3, 1)) is None
