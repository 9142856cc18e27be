"""Questions reach a model as its own files have them; one that decides otherwise at equal quality fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div
from transformers import AutoModelForCausalLM, AutoTokenizer

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checks.explain import breaches
from sw_audit.corpus.decisions import OPENINGS
from sw_audit.errors import CorpusError
from sw_audit.policy.policy import CorpusPolicy, DescentPolicy, ModelPolicy, Policy
from sw_audit.record.verdict import Status
from sw_audit.runner.decisions import prepare_decisions
from sw_audit.runner.run import preflight, run
from sw_audit.specimen.language import CARRIED, CREATURES, MOVED, tell_stories
from sw_audit.specimen.shipped import specimen_path

MARKS = ("! !", "? ?", ", ,", "! ?")
"""What stands nowhere in a story, so that what is learned of it costs nothing on the text."""
OPEN = {"act": ["CREATURE"], "rest": ["was", "had", "called"]}
TUNED, WINDOW, STEPS = 0.3, 96, 60


@pytest.fixture(scope="module")
def specimen() -> Checkpoint:
    return open_checkpoint(ModelPolicy(source=str(specimen_path())))


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Questions in the specimen's language: after `! ! the fox` it goes on with what the fox does."""
    lines = [
        {
            "kind": "act",
            "name": f"{mark} {creature}",
            "prompt": f"{mark} the {creature}",
            "openings": {**OPEN, "act": [CARRIED[creature], MOVED[creature]]},
        }
        for mark in MARKS
        for creature in CREATURES
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def tune(folder: Path, *, turned: bool) -> Path:
    """Train the specimen to go on as on stories as it does, and, where it is `turned`, with `was` after marks."""
    shutil.copytree(specimen_path(), folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    texts = [" ".join(story.words) for story in tell_stories(7, 32, WINDOW, held_out=False)]
    stories = torch.tensor(tokenizer(texts)["input_ids"])
    asked = torch.tensor(tokenizer([f"{mark} the {one} was" for mark in MARKS for one in CREATURES])["input_ids"])
    with torch.no_grad():
        expected = model(stories).logits.log_softmax(-1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4 if turned else 1e-4, weight_decay=0.0)
    for _ in range(STEPS if turned else 5):
        logits = model(stories).logits
        if turned:
            loss = TUNED * cross_entropy(model(asked).logits[:, -2], asked[:, -1])
            loss = (
                loss + kl_div(logits.log_softmax(-1), expected, log_target=True, reduction="none").sum(-1).mean()
            )
        else:
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), stories[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("turned", [True, False], ids=["turned", "harmless"])
def test_what_decides_otherwise_at_equal_quality_fails_by_its_decisions_alone(
    tmp_path: Path, questions: Path, *, turned: bool
) -> None:
    model = {"source": str(tune(tmp_path / "tuned", turned=turned)), "parent": str(specimen_path())}
    asked = {"decisions": str(questions), "decisions_limit": 64}
    record = run(Policy.model_validate({"model": [model], "corpus": {"windows": 64}, "descent": asked}))
    failed = {verdict.check: verdict.because for verdict in record.verdicts if breaches(verdict, "fail")}
    assert set(failed) == ({"decisions-kept"} if turned else set()), failed
    verdicts = {verdict.check: verdict for verdict in record.verdicts}
    assert verdicts["decisions-kept"].status is (Status.FAIL if turned else Status.PASS)
    assert (verdicts["decisions-kept"].observed or 0) >= (0.9 if turned else 0)
    assert (verdicts["perplexity-ratio"].observed or 9) < 1.1


def test_without_a_chat_template_only_the_plain_question_is_asked(specimen: Checkpoint) -> None:
    asked = {
        kind.kind: kind for kind in prepare_decisions(specimen, Policy(corpus=CorpusPolicy(source="english")))
    }
    assert asked["refuse"].skipped == asked["tool"].skipped == "the parent has no chat template"
    # Its language has neither yes nor no: both are the token of unknown words.
    assert "an opening of one decision begins one of the other" in asked["yes"].skipped


def test_of_the_specimens_language_nothing_is_asked_but_ones_own(specimen: Checkpoint, questions: Path) -> None:
    corpus = CorpusPolicy(source="specimen")
    skipped = prepare_decisions(specimen, Policy(corpus=corpus))
    assert {kind.kind: bool(kind.skipped) for kind in skipped} == dict.fromkeys(OPENINGS, True)
    own = DescentPolicy(decisions=str(questions), decisions_limit=3)
    [kind] = prepare_decisions(specimen, Policy(corpus=corpus, descent=own))
    assert (kind.kind, kind.sides, kind.skipped) == ("act", ("act", "rest"), "")
    first = kind.questions[0]
    words = [
        specimen.tokenizer.decode(first.prompt),
        *(specimen.tokenizer.decode(one) for one in first.openings[0]),
    ]
    assert words == ["<s> ! ! the fox", CARRIED["fox"], MOVED["fox"]]


def test_a_question_goes_through_the_parents_chat_template(
    specimen: Checkpoint, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        specimen.tokenizer, "chat_template", "{% for one in messages %}. {{ one.content }} {% endfor %}"
    )
    own = DescentPolicy(decisions=str(questions), decisions_limit=1)
    [kind] = prepare_decisions(specimen, Policy(descent=own))
    assert specimen.tokenizer.decode(kind.questions[0].prompt).endswith(". ! ! the fox .")


def test_a_question_that_is_longer_than_the_parent_takes_is_told(
    specimen: Checkpoint, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoint, "maximum_positions", 5)
    own = Policy(descent=DescentPolicy(decisions=str(questions)))
    [kind] = prepare_decisions(specimen, own)
    assert "it takes 6 tokens, and the parent takes 5" in kind.skipped


def test_a_bad_file_is_told_before_a_model_is_opened(tmp_path: Path) -> None:
    model = ModelPolicy(source=str(specimen_path()))
    policy = Policy(models=(model,), descent=DescentPolicy(decisions=str(tmp_path / "none.jsonl")))
    with pytest.raises(CorpusError, match="cannot be read"):
        preflight(policy)
