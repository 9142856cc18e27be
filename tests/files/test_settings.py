"""Settings that were broken are found by name; saving again, quantizing and tuning change none that counts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.errors import CheckpointError
from sw_audit.files.settings import compare_settings
from sw_audit.policy.policy import DescentPolicy, ModelPolicy, Policy
from sw_audit.record.files import ComparedSettings
from sw_audit.record.verdict import Status
from sw_audit.runner.run import run
from sw_audit.specimen.shipped import specimen_path
from tools.broken.gguf_files import rewrite_gguf
from tools.broken.sound import GGUF, Workshop

Edit = Callable[[Path], object]
TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Copy the specimen."""
    return Path(shutil.copytree(specimen_path(), tmp_path / "child"))


def compare(child: Path, parent: Path | None = None, **policy: Any) -> ComparedSettings:
    folders = [
        CheckpointFolder.require(ModelPolicy(source=str(path))) for path in (child, parent or specimen_path())
    ]
    return compare_settings(*folders, Policy.model_validate(policy))


def list_serious(child: Path, parent: Path | None = None) -> dict[str, tuple[str, str | None, str | None]]:
    serious = compare(child, parent).list_serious(())
    return {changed.key: (changed.effect, changed.value, changed.parent) for changed in serious}


def edit(name: str, **values: Any) -> Edit:
    """Set keys of a JSON file; `None` takes one away."""

    def edit_(folder: Path) -> None:
        path = folder / f"{name}.json"
        content = json.loads(path.read_text()) | values if path.exists() else values
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return edit_


def set_token(role: str, token: str, file: str = "tokenizer_config") -> Edit:
    return edit(file, **{f"{role}_token": token})


def edit_tokenizer(change_: Callable[[dict[str, Any]], object]) -> Edit:
    """Change tokenizer.json."""

    def edit_(folder: Path) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        change_(content)
        path.write_text(json.dumps(content))

    return edit_


def together(*edits: Edit) -> Edit:
    return lambda folder: [edit_(folder) for edit_ in edits]


def swap_tokens_(content: dict[str, Any]) -> None:
    vocabulary = content["model"]["vocab"]
    first, second = (token for token, number in vocabulary.items() if number in (100, 101))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]


def lengthen_(content: dict[str, Any]) -> None:
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"new{number}": len(vocabulary) + number for number in range(5)}


def strip_special_(content: dict[str, Any]) -> None:
    content["added_tokens"][1]["special"] = False


def write_template(text: str) -> Edit:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


BROKEN: dict[str, tuple[Edit, str, str, str | None, str | None]] = {
    "eos in generation": (
        edit("generation_config", eos_token_id=7),
        "generation_config.eos_token_id",
        "stopping",
        "7",
        "1",
    ),
    "eos in config": (edit("config", eos_token_id=7), "config.eos_token_id", "stopping", "7", "1"),
    "eos in tokenizer": (
        set_token("eos", "<unk>"),
        "tokenizer_config.eos_token",
        "stopping",
        '"<unk>"',
        '"</s>"',
    ),
    "stop strings": (
        edit("generation_config", stop_strings=["the"]),
        "generation_config.stop_strings",
        "stopping",
        '["the"]',
        None,
    ),
    "length": (edit("generation_config", max_length=3), "generation_config.max_length", "stopping", "3", "20"),
    "forced end": (
        edit("generation_config", forced_eos_token_id=4),
        "generation_config.forced_eos_token_id",
        "stopping",
        "4",
        None,
    ),
    "no BOS": (
        edit_tokenizer(lambda content: content.update(post_processor=None)),
        "tokenizer.bos",
        "input",
        '"not added"',
        '"added"',
    ),
    "repetition": (
        edit("generation_config", repetition_penalty=1.3),
        "generation_config.repetition_penalty",
        "sampling",
        "1.3",
        "1.0",
    ),
    "suppressed": (
        edit("generation_config", suppress_tokens=[5, 6]),
        "generation_config.suppress_tokens",
        "sampling",
        "[5, 6]",
        None,
    ),
    "sampling": (
        edit("generation_config", do_sample=True),
        "generation_config.do_sample",
        "sampling",
        "true",
        "false",
    ),
    "temperature": (
        edit("generation_config", temperature=0.7),
        "generation_config.temperature",
        "sampling",
        "0.7",
        "1.0",
    ),
    "positions": (
        edit("config", max_position_embeddings=64),
        "config.max_position_embeddings",
        "computation",
        "64",
        "512",
    ),
    "activation": (edit("config", hidden_act="relu"), "config.hidden_act", "computation", '"relu"', '"silu"'),
    "rope base": (
        edit("config", rope_parameters={"rope_theta": 5000.0, "rope_type": "default"}),
        *("config.rope_parameters.rope_theta", "computation", "5000.0", "10000.0"),
    ),
    "old rope base": (
        edit("config", rope_parameters=None, rope_theta=500.0),
        *("config.rope_parameters.rope_theta", "computation", "500.0", "10000.0"),
    ),
    "rope scaling": (
        edit("config", rope_scaling={"type": "linear", "factor": 2.0}, rope_parameters=None),
        *("config.rope_parameters.factor", "computation", "2.0", None),
    ),
    "epsilon": (edit("config", rms_norm_eps=1e-3), "config.rms_norm_eps", "computation", "0.001", "1e-06"),
    "heads": (edit("config", num_attention_heads=2), "config.num_attention_heads", "computation", "2", "4"),
    "tied": (
        edit("config", tie_word_embeddings=True),
        "config.tie_word_embeddings",
        "computation",
        "true",
        "false",
    ),
    "padding with a word": (
        edit("generation_config", pad_token_id=9),
        "generation_config.pad_token_id",
        "input",
        "9",
        "1",
    ),
    "padding with BOS": (
        set_token("pad", "<s>"),
        "tokenizer_config.pad_token",
        "input",
        '"<s>"',
        '"</s>"',
    ),
    "longest text": (
        edit("tokenizer_config", model_max_length=32),
        "tokenizer_config.model_max_length",
        "input",
        "32",
        "512",
    ),
    "swapped tokens": (edit_tokenizer(swap_tokens_), "tokenizer.vocabulary", "input", "101", "100"),
    "too many tokens": (edit_tokenizer(lengthen_), "tokenizer.size", "input", "215", "210"),
    "a normalizer": (
        edit_tokenizer(lambda content: content.update(normalizer={"type": "Lowercase"})),
        *("tokenizer.text", "input", "[2, 13, 2, 2]", "[2, 2, 2, 2]"),
    ),
    "a template": (write_template(TEMPLATE), "chat_template", "input", f"{json.dumps(TEMPLATE)[:77]}...", None),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_setting_is_found_by_name(case: str, folder: Path) -> None:
    edit_, key, effect, value, parent = BROKEN[case]
    edit_(folder)
    assert list_serious(folder)[key] == (effect, value, parent)


def test_a_tokenizer_that_cannot_be_read_is_a_finding(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    assert [*list_serious(folder)] == ["tokenizer"]


def test_a_token_that_is_special_no_more_is_found_where_text_is_read_back(tmp_path: Path, folder: Path) -> None:
    added = {
        "id": 210,
        "content": "<x>",
        **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
    }
    parent = Path(shutil.copytree(specimen_path(), tmp_path / "parent"))
    for place, special in ((parent, True), (folder, False)):
        edit_tokenizer(lambda content, token={**added, "special": special}: content["added_tokens"].append(token))(
            place
        )
    read = ("input", '["a <x> <unk> <x> <unk>", "a <x> <x>"]', '["a <x> <unk> <x> <unk>", "a"]')
    assert list_serious(folder, parent) == {"tokenizer.decoding": read}


def reload_(folder: Path) -> None:
    """Save everything again, as this version of transformers does."""
    AutoConfig.from_pretrained(folder).save_pretrained(folder)
    GenerationConfig.from_pretrained(folder).save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)


def nest_(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": content}))


SOUND: dict[str, Edit] = {
    "saved again": reload_,
    "another version": edit(
        "config", transformers_version="4.40.0", torch_dtype="float16", dtype=None, use_cache=False
    ),
    "rope as it was spelled": edit("config", rope_parameters=None, rope_theta=10000, rope_scaling=None),
    "defaults left out": edit(
        "config", hidden_act=None, attention_bias=None, mlp_bias=None, head_dim=None, pretraining_tp=None
    ),
    "unknown keys": edit(
        "config",
        unsloth_fixed=True,
        quantization_config={"quant_method": "gptq", "bits": 4},
        initializer_range=1.0,
    ),
    "ends as a list": together(edit("generation_config", eos_token_id=[1]), edit("config", eos_token_id=[1])),
    "no generation settings": lambda folder: (folder / "generation_config.json").unlink(),
    "generation defaults spelled out": edit(
        "generation_config", temperature=1.0, top_k=50, top_p=1, max_length=20, use_cache=False
    ),
    "padding with the unknown token": together(
        edit("generation_config", pad_token_id=2),
        edit("config", pad_token_id=2),
        set_token("pad", "<unk>"),
    ),
    "longer texts": edit("tokenizer_config", model_max_length=10**30),
    "padded on the left": edit("tokenizer_config", padding_side="left"),
    "another class of the same tokenizer": edit(
        "tokenizer_config", tokenizer_class="PreTrainedTokenizerFast", backend=None
    ),
    "special tokens in a file": set_token("bos", "<s>", "special_tokens_map"),
}


@pytest.mark.parametrize("case", SOUND)
def test_what_changes_nothing_is_not_serious(case: str, folder: Path) -> None:
    SOUND[case](folder)
    assert not list_serious(folder)


def test_what_the_audit_adds_and_the_tokenizer_does_not_is_said(folder: Path) -> None:
    edit_tokenizer(lambda content: content.update(post_processor=None))(folder)
    [note] = compare(folder).notes
    assert note.startswith("The audit puts BOS before every text, and this model's files do not")
    assert compare(specimen_path()).notes == ()
    [never] = compare(specimen_path(), corpus={"bos": "never"}).notes
    assert never.startswith("The audit puts no BOS before a text, and this model's and the parent's files do")


def test_a_window_that_shrinks_is_said(folder: Path) -> None:
    edit("config", max_position_embeddings=64)(folder)
    [changed] = compare(folder).list_serious(())
    assert changed.note == "no window of this audit, and of either model, has more than 64 tokens"


@pytest.mark.parametrize("case", ["swapped tokens", "too many tokens", "no BOS", "positions"])
def test_an_audit_ends_in_a_failing_verdict_also_where_nothing_can_be_measured(case: str, folder: Path) -> None:
    edit_, key, *_ = BROKEN[case]
    edit_(folder)
    models = [{"source": str(folder), "parent": str(specimen_path())}]
    policy = Policy.model_validate({"model": models, "corpus": {"windows": 4}})
    record = run(policy, checks=["settings-as-parent", "top1-agreement"])
    verdicts = {verdict.check: verdict for verdict in record.models[0].verdicts}
    assert verdicts["settings-as-parent"].status is Status.FAIL
    assert key in {finding.label for finding in verdicts["settings-as-parent"].findings}
    allowed = policy.model_copy(update={"descent": DescentPolicy(may_differ=("tokenizer*", "config.*"))})
    if case in ("swapped tokens", "too many tokens"):  # then nothing is left that says why
        with pytest.raises(CheckpointError):
            run(allowed, checks=["settings-as-parent", "top1-agreement"])


def test_two_gguf_files_are_held_beside_each_other_key_by_key(tmp_path: Path) -> None:
    parent = Workshop(tmp_path).make("gguf-alone") / GGUF
    child = Path(shutil.copy(parent, tmp_path / GGUF))
    assert list_serious(child, parent) == {}
    for file, rule in ((parent, "gpt-2"), (child, "llama-bpe")):
        rewrite_gguf(file, lambda values, rule=rule: values.update({"tokenizer.ggml.pre": rule}))  # type: ignore[misc]
    assert set(list_serious(child, parent)) == {"gguf.tokenizer.ggml.pre"}
