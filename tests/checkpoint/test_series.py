"""Checkpoints of a series: which folders are some, their order, and what keeps one from being whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from safetensors.torch import save_file
from support.series import SHARDS, write_member

from sw_audit.checkpoint.series import find_lack, is_numbered, list_series
from sw_audit.errors import CheckpointError
from sw_audit.policy.model_policy import ModelPolicy


def list_names(folder: Path, parent: str | None = None) -> list[str]:
    return [member.path.name for member in list_series(folder, parent)]


def test_a_series_is_ordered_by_number_and_not_by_name_or_time(tmp_path: Path) -> None:
    for number in (1000, 500, 20):
        write_member(tmp_path / f"checkpoint-{number}")
    assert list_names(tmp_path) == ["checkpoint-20", "checkpoint-500", "checkpoint-1000"]


def test_a_series_in_which_a_name_has_no_number_is_ordered_by_when_each_was_written(tmp_path: Path) -> None:
    for time, name in enumerate(("late-1", "early", "late-0")):
        os.utime(write_member(tmp_path / name) / "config.json", (time, time))
    assert list_names(tmp_path) == ["late-1", "early", "late-0"]
    assert not is_numbered([Path("a-1"), Path("b-2")])


def test_what_is_no_checkpoint_a_draft_a_link_to_another_or_the_parent_is_left_out(tmp_path: Path) -> None:
    for name in ("checkpoint-1", "tmp-checkpoint-2", ".hidden", "base"):
        write_member(tmp_path / name)
    (tmp_path / "runs").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "checkpoint-1")
    (tmp_path / "config.json").write_text("{}")
    adapter = tmp_path / "checkpoint-3"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    assert list_names(tmp_path, str(tmp_path / "base")) == ["checkpoint-1", "checkpoint-3"]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such folder; give the folder that a training run"):
        list_series(tmp_path / "none")


def test_a_checkpoint_lacks_a_shard_until_it_is_there_in_full_length(tmp_path: Path) -> None:
    folder = write_member(tmp_path / "checkpoint-1", shards=1)
    model = ModelPolicy(source=str(folder))
    assert find_lack(model) == f"shard {SHARDS[1]} is missing"
    write_member(folder)
    assert find_lack(model) is None
    whole = (folder / SHARDS[1]).read_bytes()
    (folder / SHARDS[1]).write_bytes(whole[:-1])
    assert "promises 16 bytes of weights, there are 15" in str(find_lack(model))
    (folder / SHARDS[1]).write_bytes(whole)
    assert find_lack(model) is None


def test_a_checkpoint_lacks_a_tensor_that_the_index_promises_weights_and_a_configuration_that_reads(
    tmp_path: Path,
) -> None:
    folder = write_member(tmp_path / "checkpoint-1")
    model = ModelPolicy(source=str(folder))
    (folder / "config.json").write_text('{"model_ty')
    assert "config.json is not JSON" in str(find_lack(model))
    save_file({}, write_member(folder) / SHARDS[1])
    assert find_lack(model) == f"the index promises tensor 'tensor.1' in {SHARDS[1]}, which does not hold it"
    for path in folder.glob("model*"):
        path.unlink()
    assert "no model.safetensors" in str(find_lack(model))
