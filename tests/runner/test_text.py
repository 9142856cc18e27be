"""Which text a model is measured on where the policy leaves that to the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.checkpoints import save_checkpoint

from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.policy import CorpusPolicy, Policy
from sw_audit.runner.text import settle_corpus
from sw_audit.specimen.shipped import control_path, specimen_path


def settle(model_path: Path, parent: Path | None = None, **corpus: str) -> str:
    model = ModelPolicy(source=str(model_path), parent=None if parent is None else str(parent))
    policy = Policy(models=(model,), corpus=CorpusPolicy.model_validate(corpus))
    return settle_corpus(policy, model).corpus.source


def test_the_specimen_and_what_has_its_words_has_its_text(tmp_path: Path) -> None:
    assert settle(specimen_path()) == settle(control_path()) == "specimen"
    assert settle(save_checkpoint(tmp_path / "tiny")) == "english"
    assert settle(tmp_path / "no-such-folder") == "english"
    assert settle(specimen_path() / "model.safetensors") == "specimen"
    assert settle(specimen_path(), source="mine.txt") == "mine.txt"


def test_an_adapter_without_a_tokenizer_has_the_text_of_its_base_or_parent(tmp_path: Path) -> None:
    config = tmp_path / "adapter_config.json"
    config.write_text("{}")
    assert settle(tmp_path, specimen_path()) == "specimen"
    assert settle(tmp_path) == "english"
    config.write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(specimen_path())}))
    assert settle(tmp_path) == "specimen"


@pytest.mark.parametrize("content", ["{", "{}", '{"model": {"vocab": [["a", -1.5]]}}', "[]"])
def test_a_tokenizer_that_cannot_be_read_is_left_to_opening(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    assert settle(tmp_path) == "english"
