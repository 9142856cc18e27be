from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.checkpoints import make_tokenizer, save_checkpoint
from support.planted import build_llama

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.start import apply_rule, find_start
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.errors import CheckpointError
from sw_audit.policy.model_policy import BosRule, ModelPolicy
from sw_audit.policy.policy import CorpusPolicy, Policy
from sw_audit.record.start import SequenceStart
from sw_audit.testing.families import Numerals, wrap_model


@pytest.mark.parametrize(("bos", "adds", "use"), [(1, 1, "prepended"), (1, 0, "not added"), (0, 0, "absent")])
def test_auto_is_what_the_tokenizer_returns(bos: int, adds: int, use: str) -> None:
    tokenizer = make_tokenizer(bos=bool(bos), adds=bool(adds))
    assert (tokenizer("the fox")["input_ids"][0] == 1) == bool(adds)
    start = find_start(tokenizer)
    assert (start.use, start.returned, start.automatic) == (use, bool(adds), bool(adds))
    assert (start.bos, start.lead) == ((1, [1]) if adds else (None, []))


def test_another_token_before_the_text_is_no_bos() -> None:
    tokenizer = make_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token
    assert find_start(tokenizer).use == "not added"


@pytest.mark.parametrize(("rule", "uses"), [("always", ["prepended"] * 2), ("never", ["not added"] * 2)])
def test_a_rule_counts_more_than_the_files(rule: BosRule, uses: list[str]) -> None:
    starts = [find_start(make_tokenizer(adds=adds)) for adds in (True, False)]
    assert [apply_rule(start, rule, "a model").use for start in starts] == uses
    assert [apply_rule(apply_rule(start, rule, "a"), "auto", "a") for start in starts] == starts


def test_always_without_a_bos_token_is_one_clear_line_and_never_asks_nothing() -> None:
    start = find_start(make_tokenizer(bos=False))
    assert apply_rule(start, "never", "model 'm'") == apply_rule(start, "auto", "model 'm'") == start
    with pytest.raises(CheckpointError) as caught:
        apply_rule(start, "always", "model 'm'")
    assert str(caught.value) == (
        "model 'm': BOS is to stand before every text, and its tokenizer defines no BOS token; "
        "set bos to 'auto' or 'never', or correct the tokenizer"
    )


@pytest.mark.parametrize("open_model", [open_checkpoint, open_streaming])
def test_a_model_is_opened_with_its_rule_and_its_flag_is_read(open_model: Any, tmp_path: Path) -> None:
    source = str(save_checkpoint(tmp_path))
    assert open_model(ModelPolicy(source=source)).start == find_start(make_tokenizer())
    assert open_model(ModelPolicy(source=source, bos="never")).start.use == "not added"
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "add_bos_token": False}))
    start = open_model(ModelPolicy(source=source)).start
    assert start == SequenceStart(token=1, returned=True, declared=False, automatic=True, use="prepended")


@pytest.mark.parametrize(("counts", "use"), [(True, "prepended"), (False, "not added")])
def test_where_the_file_and_what_the_tokenizer_returns_differ_the_format_says_which_counts(
    counts: bool, use: str
) -> None:
    class Stored:
        declared_bos_counts = counts

        def declares_bos(self, _: object) -> bool:
            return True

    folder: Any = SimpleNamespace(format=Stored())
    start = find_start(make_tokenizer(adds=False), folder)
    assert (start.declared, start.returned, start.use) == (True, False, use)


@pytest.mark.skipif(find_spec("gguf") is None, reason="needs gguf: pip install 'sw-audit[gguf]'")
@pytest.mark.parametrize("flag", [True, False, None])
def test_a_gguf_files_own_flag_is_read(flag: bool | None, tmp_path: Path) -> None:
    from gguf import GGUFWriter

    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "llama")
    if flag is not None:
        writer.add_add_bos_token(flag)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    folder = CheckpointFolder(tmp_path, ModelPolicy(source=str(tmp_path)))
    assert folder.format.declared_bos_counts
    assert folder.format.declares_bos(folder) is flag


def test_a_model_without_bos_cannot_be_opened_with_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, tokenizer=False)
    make_tokenizer(bos=False).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="defines no BOS token"):
        open_checkpoint(ModelPolicy(source=str(tmp_path), bos="always"))


def test_a_model_overrides_the_text_and_a_parent_is_used_as_its_descendant_unless_it_says_otherwise() -> None:
    models = (
        {"source": "a"},
        {"source": "b", "bos": "always", "parent": "elsewhere"},
        {"source": "c", "parent": "b"},
    )
    policy = Policy.model_validate({"model": models, "corpus": {"bos": "never"}})
    a, b, c = policy.models
    assert [policy.bos_rule(model) for model in policy.models] == ["never", "always", "never"]
    assert policy.bos_rule(a, CorpusPolicy()) == "auto"
    parents = [policy.find_parent(b), policy.find_parent(c)]
    assert [parent and policy.bos_rule(parent) for parent in parents] == ["always", "always"]


def test_a_descendant_begins_as_its_parent_does() -> None:
    with_bos, without = (wrap_model(build_llama(), Numerals(token)) for token in (1, None))
    parent = with_bos.starting("never")
    assert with_bos.starting_like(parent).start.use == "not added"
    assert without.starting_like(parent).start.use == "absent"
    assert with_bos.starting("never").starting_like(with_bos).start.use == "prepended"
    with pytest.raises(CheckpointError, match=r"beside its parent 'memory': .* defines no BOS token"):
        without.starting_like(with_bos)
