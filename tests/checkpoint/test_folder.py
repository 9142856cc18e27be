from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from support.checkpoints import rewrite_config, rewrite_weights, save_checkpoint
from support.linting import only

from sw_audit.checkpoint.folder import CheckpointFolder, choose_files, inspect_checkpoint, weigh_checkpoint
from sw_audit.checkpoint.headers import TensorHeader, read_header
from sw_audit.checkpoint.lint import lint_checkpoint
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.index.lineage import read_ancestors
from sw_audit.policy.policy import ModelPolicy
from sw_audit.runner.cache_keys import describe_content

REPOSITORY = [
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "modeling_odd.py",
    "pytorch_model.bin",
    "consolidated.safetensors",
    "onnx/model.safetensors",
    "README.md",
]


@pytest.mark.parametrize(("trusted", "count"), [({"allow_pickle": True}, 6), ({"trust_remote_code": True}, 7)])
def test_of_a_repository_one_format_of_weights_is_chosen_and_code_if_it_is_trusted(
    trusted: dict[str, bool], count: int
) -> None:
    chosen = choose_files(REPOSITORY, ModelPolicy.model_validate({"source": "owner/name", **trusted}))
    assert sorted(chosen) == sorted(REPOSITORY[:count])


def test_pickles_are_chosen_only_when_they_are_allowed_and_there_is_nothing_else() -> None:
    names = ["config.json", "pytorch_model.bin"]
    assert sorted(choose_files(names, ModelPolicy(source="owner/name", allow_pickle=True))) == names
    with pytest.raises(CheckpointError, match=r"only pytorch_model\.bin, a pickle.*allow_pickle = true"):
        choose_files(names, ModelPolicy(source="owner/name"))


def test_nothing_is_fetched_for_an_inspection() -> None:
    assert CheckpointFolder.find(ModelPolicy(source="owner/name"), fetch=False) is None


def test_a_checkpoint_weighs_its_weight_files_where_they_can_be_told(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model")
    held = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert weigh_checkpoint(ModelPolicy(source=str(folder))) == held > 0
    for source in ("owner/never-fetched", str(tmp_path / "gone")):
        assert weigh_checkpoint(ModelPolicy(source=source)) is None


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    folder = CheckpointFolder.find(ModelPolicy(source="~/model"), fetch=False)
    assert folder is not None
    assert folder.path == tmp_path / "model"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RepositoryNotFoundError, "neither a folder here nor a model on the hub"),
        (RevisionNotFoundError, "has no revision 'v9'"),
        (GatedRepoError, "access to this repository is restricted"),
        (OSError, "the hub cannot be reached"),
    ],
)
def test_each_answer_of_the_hub_is_one_clear_line(
    error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def answer(*_: object, **__: object) -> None:
        # The hub's errors are made from a response, which is not what this is about.
        raise error.__new__(error)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", answer)
    with pytest.raises(CheckpointError, match=said) as caught:
        CheckpointFolder.find(ModelPolicy(source="owner/name", revision="v9"), fetch=True)
    assert "\n" not in str(caught.value)


def test_a_hub_that_refuses_connections_is_given_up_quickly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    original = huggingface_hub.HfApi

    def at_a_dead_end(*_: object, **__: object) -> Any:
        return original(endpoint="http://127.0.0.1:9")

    monkeypatch.setattr("sw_audit.checkpoint.folder.HfApi", at_a_dead_end)
    begun = time.monotonic()
    with pytest.raises(CheckpointError, match="the hub cannot be reached") as caught:
        CheckpointFolder.find(ModelPolicy(source="owner/name"), fetch=True)
    assert time.monotonic() - begun < 5
    assert "no snapshot in the cache" in str(caught.value)


def test_what_the_hub_lists_is_what_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def list_files(*_: object, **__: object) -> Any:
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in REPOSITORY])

    def download(source: str, **options: Any) -> str:
        asked.update(source=source, **options)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", list_files)
    monkeypatch.setattr("sw_audit.checkpoint.folder.snapshot_download", download)
    folder = CheckpointFolder.find(ModelPolicy(source="owner/name", revision="v1"), fetch=True)
    assert folder is not None
    assert folder.path == tmp_path
    assert (asked["source"], asked["revision"]) == ("owner/name", "v1")
    assert sorted(asked["allow_patterns"]) == sorted(REPOSITORY[:6])


def test_configuration_index_and_headers_are_read_once_to_open_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reads: Counter[str] = Counter()
    read_json = CheckpointFolder.read_json

    def count_json(folder: CheckpointFolder, name: str) -> dict[str, Any]:
        reads[name] += 1
        return read_json(folder, name)

    def count_header(path: Path) -> dict[str, TensorHeader]:
        reads[path.name] += 1
        return read_header(path)

    monkeypatch.setattr(CheckpointFolder, "read_json", count_json)
    monkeypatch.setattr("sw_audit.checkpoint.folder.read_header", count_header)
    save_checkpoint(tmp_path, max_shard_size="40KB")
    open_checkpoint(ModelPolicy(source=str(tmp_path)))
    shards = {path.name for path in tmp_path.glob("*.safetensors")}
    assert reads == Counter({"config.json", "tokenizer_config.json", "model.safetensors.index.json", *shards})


def test_a_safetensors_file_is_the_model_that_the_configuration_beside_it_describes(tmp_path: Path) -> None:
    save_checkpoint(tmp_path)
    rewrite_weights(tmp_path, lambda tensors: tensors["model.norm.weight"].fill_(2.0))
    (tmp_path / "model.safetensors").rename(tmp_path / "twice.safetensors")
    save_checkpoint(tmp_path)  # other weights under the usual name
    policy = ModelPolicy(source=str(tmp_path / "twice.safetensors"))
    opened = [open_checkpoint(policy), open_streaming(policy)]
    for checkpoint in opened:
        assert checkpoint.model.model.norm.weight.eq(2).all()
        assert [file.path for file in checkpoint.identity.files] == ["twice.safetensors"]
        assert checkpoint.identity.id == "twice"
    names = {path.name for path in CheckpointFolder.require(policy).contents}
    assert {"twice.safetensors", "config.json", "tokenizer.json"} <= names
    assert "model.safetensors" not in names
    whole = open_checkpoint(ModelPolicy(source=str(tmp_path)))
    assert whole.model.model.norm.weight.eq(1).all()


def test_one_shard_of_a_checkpoint_is_no_model_and_a_file_that_no_index_names_is_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, max_shard_size="40KB")
    shard, *others = sorted(tmp_path.glob("*.safetensors"))
    said = f"this is one of {1 + len(others)} shards of a checkpoint; give their folder, {tmp_path}"
    with pytest.raises(CheckpointError, match=re.escape(said)):
        inspect_checkpoint(ModelPolicy(source=str(shard)))
    save_checkpoint(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").rename(tmp_path / "whole.safetensors")
    assert open_checkpoint(ModelPolicy(source=str(tmp_path / "whole.safetensors"))).identity.id == "whole"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "notes.txt",
            {},
            "this is a file, and neither GGUF nor safetensors; give the folder of a checkpoint, or a",
        ),
        ("pytorch_model.bin", {"allow_pickle": True}, "this is a file, and neither GGUF nor safetensors; give"),
        (
            "it.safetensors",
            {},
            "there is no config.json beside the file; put the model's config.json and tokenizer",
        ),
        ("it.gguf", {"gguf": "other.gguf"}, "this is a file, and `gguf` names 'other.gguf'; leave `gguf` out, or"),
    ],
)
def test_a_file_that_is_no_model_is_one_clear_line(
    name: str, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / name).touch()
    for act in (inspect_checkpoint, open_checkpoint):
        with pytest.raises(CheckpointError) as caught:
            act(ModelPolicy.model_validate({"source": str(tmp_path / name), **options}))
        assert str(caught.value).startswith(f"model {str(tmp_path / name)!r}: {said}")


def test_a_safetensors_file_without_a_tokenizer_beside_it_is_one_clear_line(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, tokenizer=False)
    with pytest.raises(CheckpointError, match="there is no tokenizer beside the file; put the tokenizer"):
        open_checkpoint(ModelPolicy(source=str(tmp_path / "model.safetensors")))


@pytest.mark.parametrize(
    ("source", "id_"),
    [("a/Llama-3.2-1B", "Llama-3.2-1B"), ("a/b.Q4_1.gguf", "b.Q4_1"), ("./model.safetensors", "model")],
)
def test_a_file_is_called_by_its_name_without_the_ending_of_its_format(source: str, id_: str) -> None:
    assert ModelPolicy(source=source).id == id_


def test_what_is_kept_of_a_file_rests_on_it_and_on_no_other_weights(tmp_path: Path) -> None:
    save_checkpoint(tmp_path)
    file = tmp_path / "model.safetensors"
    shutil.copyfile(file, tmp_path / "other.safetensors")
    policy = ModelPolicy(source=str(file))
    before = describe_content(policy)
    (tmp_path / "other.safetensors").write_bytes(b"")
    (tmp_path / "more.gguf").write_bytes(b"")
    assert describe_content(policy) == before
    rewrite_config(tmp_path, rms_norm_eps=0.5)
    assert describe_content(policy) != before


READ = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "it.gguf", "adapter_model.safetensors")


@pytest.mark.parametrize("name", [*READ, *WEIGHTS])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_is_refused_before_anything_is_opened(name: str, kind: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    sources = [tmp_path, *([tmp_path / name] if name.endswith((".gguf", ".safetensors")) else [])]
    for source in sources:
        for act in (inspect_checkpoint, open_checkpoint, lint_checkpoint):
            with pytest.raises(CheckpointError, match=f"{name} is a pipe, a socket or a device, and no file"):
                act(ModelPolicy(source=str(source)))
    assert read_ancestors(tmp_path) == ()


def test_links_to_files_and_pipes_that_nobody_reads_are_nothing_unusual(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "blobs")
    (tmp_path / "model").mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / "model" / path.name).symlink_to(path)
    (tmp_path / "model" / "gone.json").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "model" / "progress")
    open_checkpoint(ModelPolicy(source=str(tmp_path / "model")))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_a_small_file_that_is_larger_than_any_sound_one_is_refused(name: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path)
    for other in ("trainer_state.json", name):  # a trainer's log is not read, however long
        with (tmp_path / other).open("ab") as file:
            file.truncate((64 << 20) + 1)
        if other != name:
            inspect_checkpoint(ModelPolicy(source=str(tmp_path)))
    with pytest.raises(CheckpointError, match=f"{name} has 67108865 bytes, and at most 67108864 are read"):
        inspect_checkpoint(ModelPolicy(source=str(tmp_path)))


@pytest.mark.parametrize(
    ("shard", "said"),
    [
        ("pytorch_model.bin", "which is no .safetensors file"),
        ("../model.safetensors", "outside of the folder"),
        ("..", "which is no .safetensors file"),
        ("/etc/passwd", "outside of the folder"),
        ("m\0.safetensors", "is missing"),
        (f"{'m' * 5000}.safetensors", "is missing"),
    ],
)
@pytest.mark.parametrize("allowed", [False, True])
def test_an_index_reaches_no_other_kind_of_file_and_no_other_folder(
    shard: str, said: str, tmp_path: Path, *, allowed: bool
) -> None:
    folder = save_checkpoint(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    shutil.copyfile(folder / "model.safetensors", tmp_path / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": shard}}))
    policy = ModelPolicy(source=str(folder), allow_pickle=allowed)
    for act in (inspect_checkpoint, open_checkpoint):
        with pytest.raises(BrokenWeightsError, match=said) as caught:
            act(policy)
        assert caught.value.kind == "shard-index"
    assert only(lint_checkpoint(policy))[0] == "shard-index"


ODD: dict[str, tuple[str, str, str]] = {
    "brackets": ("config.json", "[" * 100_000, "config.json is nested too deeply"),
    "objects": ("config.json", '{"a":' * 100_000, "config.json is nested too deeply"),
    "digits": ("config.json", f'{{"hidden_size": {"9" * 5000}}}', "config.json is not JSON"),
    "architectures": ("config.json", '{"architectures": 5}', "config.json says that architectures is 5"),
    "names": ("config.json", '{"architectures": [2]}', "config.json says that architectures is [2]"),
    "text": ("config.json", '{"text_config": [1]}', "config.json says that text_config is [1]"),
    "method": ("config.json", '{"quantization_config": "int4"}', "says that quantization_config is 'int4'"),
    "index brackets": ("model.safetensors.index.json", "[" * 100_000, "is nested too deeply"),
    "index digits": ("model.safetensors.index.json", f'{{"a": {"9" * 5000}}}', "is not JSON"),
    "index numbers": ("model.safetensors.index.json", '{"weight_map": {"a": 5}}', "has no map from tensors"),
}


@pytest.mark.parametrize("case", ODD)
def test_json_of_the_wrong_kind_is_one_line(case: str, tmp_path: Path) -> None:
    name, text, said = ODD[case]
    save_checkpoint(tmp_path)
    if "index" in name:
        (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00001.safetensors")
    (tmp_path / name).write_text(text)
    for act in (inspect_checkpoint, open_checkpoint):
        with pytest.raises(CheckpointError) as caught:
            act(ModelPolicy(source=str(tmp_path)))
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
