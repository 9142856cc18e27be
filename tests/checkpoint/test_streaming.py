"""Layers that are there only while they run, and tensors that remember how they are made."""

from __future__ import annotations

import gc
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from golden.damage import MODELS
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from support.checkpoints import (
    DENSE,
    EXPERTS,
    LLAMA,
    rewrite_config,
    rewrite_weights,
    save_checkpoint,
)
from support.stored import make as make_stored

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.formats.format import Decoded
from sw_audit.checkpoint.lazy_tensor import LazyTensor, list_sources, make_entry_real, make_real
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.streaming import DecodedFiles, MappedFiles, count_bytes_read, open_streaming
from sw_audit.errors import CheckpointError
from sw_audit.policy.policy import ModelPolicy

TOKENS = torch.tensor([[1, 5, 6, 7, 8]])


FAMILIES = {family.model_type: family for family in (*DENSE, *EXPERTS)}


def run(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=TOKENS, use_cache=False).logits
    return logits


def test_a_head_that_files_hold_beside_the_embedding_it_is_tied_to_is_what_the_library_makes_of_it(
    tmp_path: Path,
) -> None:
    save_checkpoint(tmp_path, LLAMA, tie_word_embeddings=True)
    embedding = "model.embed_tokens.weight"
    rewrite_weights(tmp_path, lambda tensors: tensors.update({"lm_head.weight": -2 * tensors[embedding]}))
    policy = ModelPolicy(source=str(tmp_path))
    assert torch.equal(run(open_streaming(policy).model), run(open_checkpoint(policy).model))


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "mixtral", "gpt_oss"])
def test_every_matrix_can_be_read_while_its_layer_is_not_in_memory(name: str, tmp_path: Path) -> None:
    policy = ModelPolicy(source=str(save_checkpoint(tmp_path, FAMILIES[name])))
    for ours, theirs in zip(open_streaming(policy).layers, open_checkpoint(policy).layers, strict=True):
        assert all(parameter.is_meta for parameter in ours.module.parameters())
        for kind in ("matrices", "down_projections"):
            pairs = list(zip(getattr(ours, kind), getattr(theirs, kind), strict=True))
            assert pairs
            for paged, whole in pairs:
                assert (paged.parameter, paged.expert) == (whole.parameter, whole.expert)
                assert torch.equal(paged.weight, whole.weight)


def test_one_layer_at_a_time_is_in_memory(tmp_path: Path) -> None:
    checkpoint = open_streaming(ModelPolicy(source=str(save_checkpoint(tmp_path))))
    seen: list[list[int]] = []

    def note(*_: object) -> None:
        present = [
            layer.index
            for layer in checkpoint.layers
            if any(not parameter.is_meta for parameter in layer.module.parameters())
        ]
        seen.append(present)

    for layer in checkpoint.layers:
        layer.module.register_forward_pre_hook(note)
    run(checkpoint.model)
    assert seen == [[0], [1], [2]]
    note()
    assert seen[-1] == []


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    "name", ["mlp.down_proj.weight", "self_attn.q_proj.weight", "input_layernorm.weight", "self_attn.k_proj.bias"]
)
def test_a_weight_that_is_not_finite_is_named_as_when_opened_whole(name: str, bad: float, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, FAMILIES["qwen2"])
    rewrite_weights(tmp_path, lambda tensors: tensors[f"model.layers.1.{name}"].view(-1)[3].fill_(bad))
    policy = ModelPolicy(source=str(tmp_path))
    with pytest.raises(CheckpointError) as whole:
        open_checkpoint(policy)
    checkpoint = open_streaming(policy)
    with pytest.raises(CheckpointError, match=re.escape(str(whole.value))):
        run(checkpoint.model)


def test_an_expert_that_serves_no_token_is_checked_all_the_same(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, FAMILIES["mixtral"])

    def spoil_(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if re.search(r"layers\.2\..*experts\.3\.w2", name))
        tensors[name][0, 0] = torch.nan

    checkpoint = open_streaming(ModelPolicy(source=str(rewrite_weights(tmp_path, spoil_))))
    with pytest.raises(CheckpointError, match=r"layers\.2\.mlp\.experts\.down_proj' holds NaN"):
        run(checkpoint.model)


@pytest.mark.parametrize(
    "case", ["a missing tensor", "an unexpected tensor", "another shape", "an encoder-decoder"]
)
def test_what_does_not_fit_is_refused_in_the_same_words(case: str, tmp_path: Path) -> None:
    MODELS[case](save_checkpoint(tmp_path))
    policy = ModelPolicy(source=str(tmp_path))
    with pytest.raises(CheckpointError) as whole:
        open_checkpoint(policy)
    with pytest.raises(CheckpointError, match=re.escape(str(whole.value))):
        open_streaming(policy)


def test_mapped_tensors_are_those_of_the_file(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(7, dtype=torch.float16),
        "b": torch.randn(3, 5).bfloat16(),
        "c": torch.zeros(0, 4),
        "d": torch.tensor([True, False, True]),
        "e": torch.randn(300, 200),
        "f": torch.tensor(2.5),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    files = MappedFiles(CheckpointFolder(tmp_path, ModelPolicy(source=str(tmp_path))))
    mapped = files.map_tensors(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(mapped[name], tensor)
        assert mapped[name].dtype == tensor.dtype
    before = (tmp_path / "model.safetensors").read_bytes()
    mapped["e"].fill_(0.0)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert torch.equal(files.map_tensor("e"), tensors["e"])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.integers(1, 3), st.integers(0, 2**16))
def test_what_is_done_without_data_is_done_again_on_data(choice: list[int], parts: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    real = {name: torch.randn(6, 4, generator=generator) for name in "abc"}
    pretended = {name: LazyTensor.of(name, tensor.shape, tensor.dtype) for name, tensor in real.items()}

    def make(tensors: dict[str, Any]) -> torch.Tensor:
        state: torch.Tensor = torch.stack([tensor[...] for tensor in tensors.values()])
        for number in choice:
            if number == 0:
                state = torch.cat([state, state], dim=1)
            elif number == 1:
                state = state.transpose(1, 2).contiguous()
            elif number == 2:
                state = state.to("cpu", torch.float64)
            elif number == 3:
                state = torch.chunk(state, parts, dim=0)[-1]
            elif number == 4:
                state = torch.stack([state[0], state[-1]], dim=0)
            else:
                state = state.reshape(len(state), -1, 2)
        return torch.nn.Parameter(state)

    expected, unread = make(real), make(pretended)
    assert isinstance(unread, LazyTensor)
    assert unread.is_meta
    found = make_real(unread, real.__getitem__)
    assert (found.dtype, found.shape, found.stride()) == (expected.dtype, expected.shape, expected.stride())
    assert torch.equal(found, expected)
    assert set(list_sources(unread)) <= set(real)
    for index in range(len(expected)):
        assert torch.equal(make_entry_real(unread, index, real.__getitem__), expected[index])


def test_one_of_several_stacked_tensors_is_made_from_its_own_source_only() -> None:
    pretended = [LazyTensor.of(str(number), (2, 3), torch.float32).to(torch.float64) for number in range(4)]
    stacked = torch.stack(pretended, dim=0)
    asked: list[str] = []

    def read(name: str) -> torch.Tensor:
        asked.append(name)
        return torch.full((2, 3), float(name))

    assert torch.equal(make_entry_real(stacked, 2, read), torch.full((2, 3), 2.0, dtype=torch.float64))
    assert asked == ["2"]


def make_decoded() -> tuple[DecodedFiles, list[str]]:
    """Two tensors that say when they are decoded."""
    told: list[str] = []

    def make(name: str, tensor: torch.Tensor) -> Decoded:
        def read() -> torch.Tensor:
            told.append(name)
            return tensor.clone()

        return Decoded(read, tuple(tensor.shape), {torch.float32: "F32", torch.bfloat16: "BF16"}[tensor.dtype])

    tensors = {"a": torch.arange(6.0).view(3, 2).T, "b": torch.ones(3, dtype=torch.bfloat16)}
    return DecodedFiles({name: make(name, tensor) for name, tensor in tensors.items()}), told


def test_what_is_decoded_twice_is_mapped_from_then_on_and_gone_with_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sw_audit.checkpoint.streaming.find_disk", lambda: tmp_path)
    files, told = make_decoded()
    for _ in range(4):
        both = files.map_tensors(["a", "b", "a"])
        assert torch.equal(both["a"], torch.arange(6.0).view(3, 2).T)
        assert both["a"].stride() == (1, 2)  # a product may depend on it in its last bits
        assert torch.equal(both["b"], torch.ones(3, dtype=torch.bfloat16))
        both["a"].zero_()  # which changes no file
    assert told == ["a", "b"] * 2
    assert [path.is_dir() for path in tmp_path.iterdir()] == [True]
    del files
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("disk", ["none", "gone"])
def test_without_a_disk_it_is_decoded_each_time(
    disk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = None if disk == "none" else tmp_path / "gone"
    monkeypatch.setattr("sw_audit.checkpoint.streaming.find_disk", lambda: place)
    files, told = make_decoded()
    for _ in range(3):
        assert torch.equal(files.map_tensor("a"), torch.arange(6.0).view(3, 2).T)
    assert told == ["a"] * 3


def test_the_next_layer_is_read_ahead_of_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr(MappedFiles, "read_ahead", lambda _, names: told.append(sorted(names)))
    opened = open_streaming(ModelPolicy(source=str(save_checkpoint(tmp_path / "model"))))
    run(opened.model)
    assert [{name.split(".")[2] for name in names} for names in told] == [{"1"}, {"2"}]
    with opened.layers[0].present(), opened.layers[0].present():
        pass
    assert len(told) == 3


def test_reading_ahead_changes_nothing(tmp_path: Path) -> None:
    save_file({"a": torch.arange(5000.0), "b": torch.zeros(0)}, tmp_path / "model.safetensors")
    folder = save_checkpoint(tmp_path / "model")
    files = MappedFiles(CheckpointFolder.require(ModelPolicy(source=str(folder))))
    names = [*files.list_lazy()]
    before = {name: tensor.clone() for name, tensor in files.map_tensors(names).items()}
    files.read_ahead(names)
    assert all(torch.equal(before[name], tensor) for name, tensor in files.map_tensors(names).items())


def test_a_layer_that_is_present_runs_with_what_is_written_into_it_and_is_as_before_afterwards(
    tmp_path: Path,
) -> None:
    opened = open_streaming(ModelPolicy(source=str(save_checkpoint(tmp_path / "model"))))
    before, read = run(opened.model), count_bytes_read()
    with opened.layers[1].present() as layer:
        layer.down_projections[0].weight.zero_()
        assert torch.equal(layer.matrices[-1].weight, layer.matrices[-1].tensor)
        assert not torch.equal(run(opened.model), before)
        assert float(opened.layers[1].module.mlp.down_proj.weight.abs().max()) == 0
    own = sum(parameter.nbytes for parameter in opened.layers[1].module.parameters())
    others = sum(p.nbytes for layer in (opened.layers[0], opened.layers[2]) for p in layer.module.parameters())
    assert count_bytes_read() - read == own + others
    assert opened.layers[1].module.mlp.down_proj.weight.is_meta
    assert torch.equal(run(opened.model), before)


def test_a_layer_that_is_not_finite_is_refused_when_it_is_brought_in(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model")
    name = "model.layers.1.mlp.down_proj.weight"
    rewrite_weights(folder, lambda tensors: tensors[name].view(-1)[:1].fill_(torch.nan))
    opened = open_streaming(ModelPolicy(source=str(folder)))
    with opened.layers[0].present():
        pass
    with pytest.raises(CheckpointError, match=re.escape(name)), opened.layers[1].present():
        pass
    assert opened.layers[1].module.mlp.down_proj.weight.is_meta


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_what_the_library_dequantizes_is_rounded_to_the_dtype_of_the_configuration_as_when_opened_whole(
    dtype: Any, tmp_path: Path
) -> None:
    folder = make_stored("fp8", tmp_path)
    rewrite_config(folder, dtype="bfloat16")

    def narrow_(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if tensor.dtype == torch.float32 and not name.endswith("_scale_inv"):
                tensors[name] = tensor.bfloat16()

    rewrite_weights(folder, narrow_)
    policy = ModelPolicy(source=str(folder), dtype=dtype)
    whole, streamed = open_checkpoint(policy), open_streaming(policy)
    assert streamed.identity == whole.identity
    assert torch.equal(run(streamed.model), run(whole.model))
