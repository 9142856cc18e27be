"""Every way in which a checkpoint is known to fail, or to load broken in silence: one clear line each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from golden.damage import DOWN, MODELS, WEIGHTS
from support.checkpoints import rewrite_config, save_checkpoint

from sw_audit.checkpoint.folder import inspect_checkpoint
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.errors import CheckpointError
from sw_audit.policy.policy import ModelPolicy

Act = Callable[[ModelPolicy], object]
# What files tell before anything is loaded; of every other damage only opening can tell.
IN_FILES = (
    *("a path that does not exist", "an empty folder", "no config", "a config that is not JSON"),
    *("a config that is not text", "a config that is a list", "no model_type", "no weights", "a truncated file"),
    *("a header cut off", "an empty file", "a file that is too long", "a git-LFS pointer", "another kind of file"),
    *("a header that is no JSON", "a pickle only", "integer codes", "a format that nobody reads back"),
    *("an adapter beside a model", "no tokenizer", "an encoder-decoder", "a shard that lacks a tensor"),
    *("a shard that is elsewhere", "a shard that is missing", "an index without a map"),
    *("an index that is not JSON", "a masked language model"),
)
# What the program says of each, word for word.
WORDS = json.loads((Path(__file__).parents[1] / "golden" / "data" / "errors-models.json").read_text())["locate"]
# Locating does not reach the head.
WORDS["one negative infinity"] = [
    2,
    "sw-audit: model './model': tensor 'lm_head.weight' holds an infinity; repair the weights or take an earlier "
    "checkpoint",
]


def _refused(said: str, act: Act, source: Path | str, **options: object) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        act(ModelPolicy.model_validate({"source": str(source), **options}))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"model {str(source)!r}: ")
    # Asked, found, what to do.
    assert message.count("; ") >= 1
    assert len(message) < 400 + len(str(source))


acts = pytest.mark.parametrize("act", [inspect_checkpoint, open_checkpoint])


@pytest.mark.parametrize("case", MODELS)
def test_a_bad_checkpoint_is_one_clear_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    MODELS[case](save_checkpoint(tmp_path / "model"))
    words = WORDS[case][-1].removeprefix("sw-audit: ").replace("VERSION", transformers.__version__)
    said = f"^{re.escape(words)}$"
    _refused(said, open_checkpoint, "./model")
    if case in IN_FILES:
        _refused(said, inspect_checkpoint, "./model")


@acts
def test_a_path_that_is_no_folder_is_one_clear_line(act: Act, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", "./nowhere", "a/b/c"):
        _refused("there is no such folder; correct the path", act, path)


@acts
def test_an_id_is_one_clear_line_when_the_hub_is_off(
    act: Act, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    _refused("no snapshot in the cache, and the hub is switched off", act, "owner/name")


@pytest.mark.parametrize("device", ["cuda:77", "moon"])
def test_a_device_that_is_not_here_is_one_clear_line(device: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path)
    _refused(f"device '{device}' is not available here", open_checkpoint, folder, device=device)


def test_code_or_garbage_in_a_pickle_that_is_allowed_is_refused_and_does_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "ran"),)  # type: ignore[return-value]

    folder = save_checkpoint(tmp_path / "model")
    (folder / WEIGHTS).unlink()
    torch.save({DOWN: Trap()}, folder / "pytorch_model.bin")
    _refused("transformers cannot read its weights", open_checkpoint, folder, allow_pickle=True)
    assert not (tmp_path / "ran").exists()
    (folder / "pytorch_model.bin").write_bytes(b"garbage")
    _refused("transformers cannot read its weights", open_checkpoint, folder, allow_pickle=True)


def _set_tokenizer(changes: dict[str, object]) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        content = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**content, **changes}))

    return act


def _lose_unknown_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"] |= {"unk_token": "<gone>"}
    path.write_text(json.dumps(content))


CONFIG = "tokenizer_config.json"
UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "start": (_set_tokenizer({"bos_token": "x"}), "gives 'x' the number 17, and its embedding has 17 rows"),
    "markers": (_set_tokenizer({"bos_token": "<x>"}), "gives '<x>' the number 17, and its embedding has 17 rows"),
    "padding": (_set_tokenizer({"pad_token": "and so"}), "gives 'and so' the number 17"),
    "length": (_set_tokenizer({"model_max_length": ""}), "says that model_max_length is ''; give a number"),
    "unknown": (_lose_unknown_token, "cannot read its tokenizer .*UNK"),
    "positions": (
        lambda folder: rewrite_config(folder, max_position_embeddings=1),
        "position_embeddings = 1; give",
    ),
    "nothing": (
        lambda folder: rewrite_config(folder, max_position_embeddings=-5),
        "position_embeddings = -5; give",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
@pytest.mark.parametrize("act", [open_checkpoint, open_streaming])
def test_a_tokenizer_or_a_length_that_no_text_can_be_read_with_is_one_line(
    case: str, act: Act, tmp_path: Path
) -> None:
    change, said = UNUSABLE[case]
    change(save_checkpoint(tmp_path, vocab_size=17))
    _refused(said, act, tmp_path)


def test_a_marker_of_padding_without_a_row_is_nothing_unusual(tmp_path: Path) -> None:
    """Many fine-tunes add one and leave the embedding as it was."""
    _set_tokenizer({"pad_token": "[PAD]"})(save_checkpoint(tmp_path, vocab_size=17))
    assert open_checkpoint(ModelPolicy(source=str(tmp_path))).tokenizer.pad_token_id == 17
