"""The law of the super activation, from a model that breaks it to the pages of the report."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.pages import parse_page

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.record import Record
from sw_audit.record.rendering import render_record
from sw_audit.record.store import decode_record, encode_record
from sw_audit.record.verdict import Status, Verdict
from sw_audit.runner.run import run
from sw_audit.specimen import specimen_path
from sw_audit.testing import Stem, plant_stems_
from sw_audit.testing.planting import choose_down

CHECK = "super-activation-persists"


def audit(source: Path, **limits: object) -> tuple[Record, Verdict]:
    policy = {
        "model": [{"source": str(source)}],
        "corpus": {"source": "specimen", "windows": 8},
        "checks": {CHECK: limits},
    }
    record = run(Policy.model_validate(policy), checks=[CHECK])
    [verdict] = record.verdicts
    return record, verdict


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Copy the specimen, with one word, which none of the fixed prompts holds, making a second, higher spike."""
    word = "danced"
    checkpoint = open_checkpoint(ModelPolicy(source=str(specimen_path())))
    [token_id] = checkpoint.tokenizer.encode(word, add_special_tokens=False)
    prompt = [checkpoint.tokenizer.bos_token_id, token_id]
    plant_stems_(
        checkpoint, prompt, 1, choose_down(checkpoint, 1, prompt, 1), [Stem(row=5, column=40, height=60.0)]
    )
    folder = tmp_path_factory.mktemp("moody") / "moody"
    shutil.copytree(specimen_path(), folder)
    names, changed = load_file(folder / "model.safetensors"), checkpoint.model.state_dict()
    tensors = {name: changed[name].contiguous() for name in names}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, word


def test_a_spike_that_depends_on_the_prompt_is_told_by_the_one_word_that_moves_it(moody: tuple[Path, str]) -> None:
    folder, word = moody
    record, verdict = audit(folder)
    assert verdict.status is Status.FAIL
    assert f"on the prompt {word!r} (2 tokens), the shortest found to break the law" in verdict.because
    # The text's own prompts do not show it.
    assert [one.status for one in verdict.findings] == [Status.PASS, Status.FAIL]
    found = record.find_model("moody").prompt_search.found
    assert found is not None
    assert found.prompt == word
    [trace] = found.traces
    assert set(trace.peaks[1:]) == {1}
    assert trace.values[1] == pytest.approx(60.0, abs=0.5)
    again = decode_record(encode_record(record))
    assert again == record
    page = parse_page(render_record(again))
    text = " ".join(page.text.split())
    assert f"Shortest prompt that breaks it {word} " in text
    assert verdict.because[:60] in text


def test_the_fixed_prompts_alone_do_not_show_it(moody: tuple[Path, str]) -> None:
    record, verdict = audit(moody[0], examples=0)
    assert verdict.status is Status.PASS
    assert "no other prompt was tried: `examples` is 0" in verdict.because
    assert "No other prompt was tried" in parse_page(render_record(record)).text


def test_two_audits_with_one_seed_agree_on_prompt_and_verdict(moody: tuple[Path, str]) -> None:
    (first, verdict), (second, again) = (audit(moody[0], examples=20) for _ in range(2))
    assert first.find_model("moody").prompt_search == second.find_model("moody").prompt_search
    assert verdict == again


def test_no_prompt_breaks_the_specimen() -> None:
    _, verdict = audit(specimen_path())
    assert verdict.status is Status.PASS
    assert verdict.because.endswith("; none of up to 50 random prompts breaks the law.")
