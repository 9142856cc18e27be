"""Where a scalar lies in its file, and what a flipped bit makes of it: what is told is what the file opens to."""

from __future__ import annotations

import json
import shutil
import struct
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.checkpoints import make_tokenizer
from support.quantizing import pack_gguf
from support.stored import make

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.parameters import ModelParameter, find_parameter, name_parameters
from sw_audit.checkpoint.stored_bits import Flip, StoredModel, UnplacedError
from sw_audit.errors import BrokenWeightsError
from sw_audit.policy.policy import ModelPolicy
from sw_audit.specimen.shipped import specimen_path
from sw_audit.testing.families import DENSE, EXPERTS, build_random_model

DOWN, NORM, QUERY = (
    "model.layers.1.mlp.down_proj.weight", "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"
)  # fmt: skip
PLAIN = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
BLOCKS = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")


def write(kind: str, folder: Path) -> Path:
    """Write the specimen as `safetensors F16`, `gguf Q4_1`, or one of `support.stored`."""
    form, _, dtype = kind.partition(" ")
    if form not in ("safetensors", "gguf"):
        return make(kind, folder)
    folder.mkdir(exist_ok=True)
    for path in specimen_path().glob("*.json"):
        shutil.copyfile(path, folder / path.name)
    if form == "gguf":
        pytest.importorskip("gguf")
        (folder / "config.json").unlink()
        pack_gguf(specimen_path(), folder / "model.gguf", dtype)
        return folder
    tensors = load_file(specimen_path() / "model.safetensors")
    save_file(
        {name: tensor.to(PLAIN[dtype]) for name, tensor in tensors.items()}, folder / "model.safetensors",
        metadata={"format": "pt"},
    )  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": str(PLAIN[dtype]).removeprefix("torch.")}))
    return folder


def open_both(folder: Path) -> tuple[StoredModel, dict[str, ModelParameter]]:
    policy = ModelPolicy(source=str(folder))
    return StoredModel(policy), name_parameters(open_checkpoint(policy))


def list_flips(model: StoredModel, parameter: ModelParameter, index: tuple[int, ...]) -> list[Flip]:
    units = model.find_units(parameter, index)
    return [flip for unit in units for flip in model.list_flips(parameter, index, unit) if flip is not None]


def write_flipped(folder: Path, flip: Flip, place: Path) -> Path:
    """Copy a model and flip one bit of its file."""
    shutil.copytree(folder, place, dirs_exist_ok=True)
    with (place / flip.unit.file).open("r+b") as file:
        file.seek(flip.unit.offset + flip.number // 8)
        byte = file.read(1)[0]
        assert byte == flip.unit.data[flip.number // 8]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1 << flip.number % 8]))
    return place


def hold_to_the_file(
    folder: Path, name: str, index: tuple[int, ...], flip: Flip, place: Path, precise: float = 0.0
) -> None:
    """Open the file with the bit flipped: every parameter is as before, but for what was told.

    Modules that keep codes multiply in a narrow dtype of their own: what is read out of them is less precise.
    """
    flipped = ModelPolicy(source=str(write_flipped(folder, flip, place)))
    if not flip.finite:
        with pytest.raises(BrokenWeightsError):
            open_checkpoint(flipped)
        return
    before, after = (
        {one: parameter.weight.clone() for one, parameter in name_parameters(open_checkpoint(which)).items()}
        for which in (ModelPolicy(source=str(folder)), flipped)
    )
    assert float(after[name][index]) == pytest.approx(flip.after, rel=precise, abs=0.0)
    assert flip.after != float(before[name][index])
    assert len(flip.values) == flip.changed
    for one, value in flip.values.items():
        before[name][one] = value
    assert all(torch.allclose(before[one], after[one], rtol=precise, atol=0.0) for one in before)


@cache
def prepare(kind: str, root: Path) -> tuple[Path, dict[str, tuple[tuple[int, ...], list[Flip]]]]:
    folder = write(kind, root / kind.replace(" ", "-"))
    model, parameters = open_both(folder)
    indices: dict[str, tuple[int, ...]] = {DOWN: (5, 7), NORM: (17,), QUERY: (33, 3)}
    return folder, {name: (index, list_flips(model, parameters[name], index)) for name, index in indices.items()}


KINDS = [*(f"safetensors {dtype}" for dtype in PLAIN), *(f"gguf {kind}" for kind in BLOCKS), "fp8"]
PACKED = ["compressed-tensors-w4a16", "compressed-tensors-mxfp4a16", "gptq", "awq"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_highest_bit_of_a_matrix_s_scalar_is_where_it_is_said_to_be(
    kind: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, flips = prepare(kind, tmp_path_factory.getbasetemp())
    index, known = flips[QUERY]  # which llama.cpp stores in another order
    flip = next(flip for flip in reversed(known) if flip.finite)
    hold_to_the_file(folder, QUERY, index, flip, tmp_path / "flipped")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, *PACKED])
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_bit_flipped_in_the_file_gives_exactly_the_values_told(
    kind: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.getbasetemp()
    folder, flips = prepare(kind, root)
    name = data.draw(st.sampled_from([DOWN, NORM, QUERY]))
    index, known = flips[name]
    flip = data.draw(st.sampled_from(known))
    precise = 1e-2 if kind in PACKED else 0.0
    hold_to_the_file(folder, name, index, flip, root / f"flipped-{kind.replace(' ', '-')}", precise)


def test_a_bfloat16_gain_has_sixteen_bits_and_they_do_what_arithmetic_says(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    _, flips = prepare("safetensors BF16", tmp_path_factory.getbasetemp())
    _, known = flips[NORM]
    assert [flip.number for flip in known] == list(range(16))
    value = struct.unpack("<f", b"\0\0" + known[0].unit.data)[0]
    assert known[15].after == -value
    assert [flip.meaning.kind for flip in known] == ["mantissa"] * 7 + ["exponent"] * 8 + ["sign"]
    # 1 <= value < 2 has the exponent 127: with its highest bit it is 255, which is no number.
    assert 1.0 <= value < 2.0
    assert not known[14].finite
    assert known[13].after == value * 2.0**-64
    assert known[6].after == pytest.approx(value + 0.5) or known[6].after == pytest.approx(value - 0.5)


def test_a_block_has_the_bits_of_the_code_and_of_its_scale_and_a_scale_changes_its_block(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    _, flips = prepare("gguf Q4_1", tmp_path_factory.getbasetemp())
    _, known = flips[DOWN]
    parts = [flip.meaning.part for flip in known]
    assert [parts.count(part) for part in ("scale", "minimum", "code")] == [16, 16, 4]
    assert all(flip.changed == 1 for flip in known if flip.meaning.part == "code")
    assert all(flip.changed == 32 for flip in known if flip.meaning.part == "minimum" and flip.meaning.place == 15)


def test_the_entry_of_a_tied_embedding_is_found_and_its_file_is_not_written(tmp_path: Path) -> None:
    folder = write("safetensors F32", tmp_path / "model")
    before = (folder / "model.safetensors").read_bytes()
    model, parameters = open_both(folder)
    [unit] = model.find_units(parameters["model.embed_tokens.weight"], (46, 31))
    value = parameters["model.embed_tokens.weight"].read((46, 31))
    assert struct.unpack_from("<f", before, unit.offset)[0] == value
    assert (folder / "model.safetensors").read_bytes() == before


def test_what_was_flipped_for_one_scalar_is_gone_for_the_next(tmp_path: Path) -> None:
    model, parameters = open_both(write("safetensors BF16", tmp_path / "model"))
    list_flips(model, parameters[NORM], (17,))
    after = list_flips(model, parameters[NORM], (18,))
    assert {flip.changed for flip in after} == {1}
    assert all(set(flip.values) == {(18,)} for flip in after)


def test_of_shards_the_one_that_holds_it_is_named(tmp_path: Path) -> None:
    folder = write("safetensors F32", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {"a.safetensors": {}, "b.safetensors": {}}
    for name, tensor in tensors.items():
        shards["b.safetensors" if name == DOWN else "a.safetensors"][name] = tensor
    for file, held in shards.items():
        save_file(held, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in shards.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    model, parameters = open_both(folder)
    [unit] = model.find_units(parameters[DOWN], (5, 7))
    assert unit.file == "b.safetensors"
    held = (folder / unit.file).read_bytes()
    assert struct.unpack_from("<f", held, unit.offset)[0] == parameters[DOWN].read((5, 7))


def hold_family(family: str, folder: Path) -> None:
    """One scalar of each kind of parameter is placed: flipping its sign in the file changes it alone."""
    build_random_model(family, 2).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    model, parameters = open_both(folder)
    # One of each kind, whatever the layer; the last dimensions first, so that rows and columns differ.
    kinds = {
        (name.rpartition("layers")[2].lstrip("0123456789."), one.shape): one for name, one in parameters.items()
    }
    for parameter in kinds.values():
        index = tuple(min(size - 1, 5 + place) for place, size in enumerate(parameter.shape))
        value = parameter.read(index)
        [unit] = model.find_units(parameter, index)
        assert struct.unpack("<f", unit.data)[0] == value
        if value:
            flips = [flip for flip in model.list_flips(parameter, index, unit) if flip is not None]
            assert (flips[-1].after, dict(flips[-1].values)) == (-value, {index: -value})


@pytest.mark.parametrize("family", ["gpt2", "gemma", "mixtral", "gpt_oss"])
def test_what_is_stored_transposed_stacked_or_less_one_is_found(family: str, tmp_path: Path) -> None:
    hold_family(family, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(DENSE | EXPERTS))
def test_every_kind_of_parameter_of_every_family_is_placed(family: str, tmp_path: Path) -> None:
    hold_family(family, tmp_path)


def test_an_adapter_is_not_placed(tmp_path: Path) -> None:
    lora = make("lora", tmp_path)
    with pytest.raises(UnplacedError, match="adapter"):
        StoredModel(ModelPolicy(source=str(lora)))


def test_a_pickle_is_not_placed(tmp_path: Path) -> None:
    folder = write("safetensors F32", tmp_path / "pickle")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnplacedError, match="pickle"):
        StoredModel(ModelPolicy(source=str(folder), allow_pickle=True))


def test_what_the_open_model_holds_otherwise_is_not_placed(tmp_path: Path) -> None:
    folder = write("safetensors F32", tmp_path / "model")
    model, checkpoint = (
        StoredModel(ModelPolicy(source=str(folder))),
        open_checkpoint(ModelPolicy(source=str(folder))),
    )
    parameter = find_parameter(checkpoint, NORM)
    assert parameter is not None
    with torch.no_grad():
        parameter.weight[17] = 5.0
    with pytest.raises(UnplacedError, match="the open model has 5"):
        model.find_units(parameter, (17,))
