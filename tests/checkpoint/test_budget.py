"""Opening within a budget of memory: whole, by layers, or not at all, and the same figures either way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.checkpoints import LLAMA, save_checkpoint

from sw_audit.checkpoint import budget
from sw_audit.checkpoint.budget import (
    Need,
    choose_opening,
    find_need,
    fits_whole,
    open_within,
    refuse_small_budget,
    require_fit,
)
from sw_audit.checkpoint.stored import Size
from sw_audit.errors import CheckpointError
from sw_audit.policy.policy import ModelPolicy

GIB = 1 << 30


def make_size(memory: int, layer: int, layers: int) -> Size:
    return Size("plain", 1, memory, memory, layer, layers, 8, 4, None)


@pytest.fixture
def model(tmp_path: Path) -> ModelPolicy:
    return ModelPolicy(source=str(save_checkpoint(tmp_path / "model", LLAMA)))


def test_a_model_takes_its_weights_and_a_layer_or_what_is_outside_and_three_layers() -> None:
    # 10 of 100 bytes are outside of three layers of 30.
    assert find_need(make_size(100, 30, 90)) == Need(whole=130, streamed=10 + 3 * 30, beside=10 + 30)


def test_six_tenths_of_the_memory_are_for_the_weights_at_most() -> None:
    assert fits_whole(Need(whole=60, streamed=0, beside=0), 100)
    assert not fits_whole(Need(whole=61, streamed=0, beside=0), 100)


def test_a_budget_too_small_for_one_layer_is_refused_with_what_would_do(model: ModelPolicy) -> None:
    need = Need(whole=8 * GIB, streamed=GIB, beside=GIB)
    require_fit(model, need, need.least)
    with pytest.raises(CheckpointError) as caught:
        require_fit(model, need, need.least - 1)
    assert caught.value.remedy == "give it more: --memory 1184MiB"
    assert "take 1 GiB" in caught.value.found


def test_a_small_model_is_opened_as_a_whole_and_a_large_one_by_layers(
    model: ModelPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_within(model, GIB)
    assert not opened.streamed
    assert opened.memory is not None
    assert 0 < opened.memory < GIB
    assert open_within(model, None).memory is None
    monkeypatch.setattr(budget, "_WHOLE_SHARE", 0.0)
    by_layers = open_within(model, GIB)
    assert by_layers.streamed
    assert by_layers.memory is not None
    ids = torch.arange(1, 9)[None]
    assert torch.equal(opened.model(input_ids=ids).logits, by_layers.model(input_ids=ids).logits)


def test_without_a_budget_the_machines_free_memory_decides(
    model: ModelPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "find_available", lambda: 1000)
    opened = open_within(model, None)
    assert opened.streamed
    assert opened.memory is not None


def test_a_model_beside_another_has_so_much_less(model: ModelPolicy) -> None:
    alone, beside = open_within(model, GIB), open_within(model, GIB, beside=model)
    assert alone.memory is not None
    assert beside.memory is not None
    assert beside.memory < alone.memory


def test_what_cannot_be_read_by_layers_and_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_checkpoint(tmp_path / "model", LLAMA)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    model = ModelPolicy(source=str(folder), allow_pickle=True)
    assert not open_within(model, GIB).streamed
    assert not open_within(model, GIB, streamed=True).streamed
    monkeypatch.setattr(budget, "_WHOLE_SHARE", 1e-9)
    with pytest.raises(CheckpointError, match="cannot be read layer by layer: its weights are no safetensors"):
        open_within(model, GIB)


def test_a_small_budget_is_refused_beforehand_also_for_what_is_beside(model: ModelPolicy) -> None:
    refuse_small_budget(model, None)
    refuse_small_budget(model, GIB, model)
    with pytest.raises(CheckpointError, match="the work at least 160 MiB; give it more: --memory 161MiB"):
        refuse_small_budget(model, 1 << 20)
    with pytest.raises(CheckpointError, match="and its parent beside it"):
        refuse_small_budget(model, 1 << 20, model)


def test_what_others_take_is_no_room(model: ModelPolicy) -> None:
    need = Need(whole=60, streamed=0, beside=0)
    assert not choose_opening(need, 100).streamed
    assert choose_opening(need, 100, taken=1).streamed
    require_fit(model, need, need.least + 5, taken=5)
    with pytest.raises(CheckpointError, match="and its parent beside it 5 bytes"):
        require_fit(model, need, need.least + 4, taken=5)


def test_what_is_not_here_is_not_fetched_to_be_measured() -> None:
    refuse_small_budget(ModelPolicy(source="nobody/nothing"), 1)
