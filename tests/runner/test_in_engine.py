"""A model in another program, from a policy to a record: here the library itself, as an engine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from sw_audit import run
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.corpus.windows import Windows
from sw_audit.engines import registry
from sw_audit.engines.engine import REGISTERED, Distributions, EngineKind, EngineRequest, Piece
from sw_audit.engines.transformers import TRANSFORMERS_ENGINE, Transformers
from sw_audit.errors import EngineError, InputError, PolicyError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.policy import Policy
from sw_audit.record.arm import BASELINE, DEQUANTIZED, DESCENDANT, PARENT, PARENT_DEQUANTIZED
from sw_audit.record.engine import EngineIdentity
from sw_audit.record.record import ModelResult
from sw_audit.record.store import encode_record
from sw_audit.record.verdict import Status
from sw_audit.runner.cache import Cache
from sw_audit.specimen.shipped import specimen_path

CORPUS = {"source": "specimen", "windows": 32}
TOP = 24


class Likeliest(Transformers):
    """Tells the likeliest tokens alone, as a server does, and is a little off if it is told to be."""

    opened = 0
    closed = 0
    off = 0.0
    other_tokens = False
    start = ""
    refusal = ""

    def __init__(self, request: EngineRequest) -> None:
        super().__init__(request.checkpoint)
        type(self).opened += 1

    @property
    def identity(self) -> EngineIdentity:
        return super().identity.model_copy(update={"engine": "likeliest", "top_tokens": TOP})

    def score(self, windows: Windows, pieces: Sequence[Piece]) -> Iterator[Distributions]:
        for piece, one in zip(pieces, super().score(windows, pieces), strict=True):
            # Flatter than the files say.
            targets = windows.token_ids[piece.window, piece.first + 1 : piece.end + 1]
            whole = Distributions.of_logits(one.log_probabilities * (1 - self.off), targets)
            kept, token_ids = whole.log_probabilities.topk(TOP)
            yield Distributions(kept, whole.targets, token_ids)

    def tokenize(self, text: str) -> tuple[int, ...]:
        return super().tokenize(text[:-1] if self.other_tokens else text)

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        if self.refusal:
            raise EngineError("a model", self.refusal, "give another")
        return self.start + "".join(message["content"] for message in messages)

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineKind]:
    monkeypatch.setattr(Likeliest, "opened", 0)
    monkeypatch.setattr(Likeliest, "closed", 0)
    kind = replace(TRANSFORMERS_ENGINE, name="likeliest", open=Likeliest)
    registry.find_engines.cache_clear()
    REGISTERED.append(kind)
    yield kind
    REGISTERED.remove(kind)
    registry.find_engines.cache_clear()


def audit(cache: Cache | None = None, **model: object) -> ModelResult:
    table = {"source": str(specimen_path()), "engine": "likeliest", **model}
    record = run(Policy.model_validate({"model": [table], "corpus": CORPUS}), cache=cache)
    return record.results[0]


def test_a_model_in_its_engine_is_held_against_its_files_and_judged_by_what_the_engine_gives() -> None:
    result = audit()
    statuses = {verdict.check: verdict.status for verdict in result.verdicts}
    assert statuses["engine-agrees"] is Status.PASS
    assert statuses["generation-sane"] is Status.PASS
    assert statuses["prune-collapses"] is Status.SKIPPED
    assert statuses["super-weight-located"] is Status.PASS
    assert Status.FAIL not in statuses.values()
    assert [one.arm.purpose for one in result.measurements] == [BASELINE.purpose, DEQUANTIZED]
    assert result.protocol.engine == "likeliest"
    assert "in likeliest" in result.protocol.description
    assert result.engine is not None
    assert all(one.first_difference is None for one in result.engine.tokenized)
    assert Likeliest.opened == Likeliest.closed == 1


def test_an_engine_that_computes_something_else_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Likeliest, "off", 0.5)
    statuses = {verdict.check: verdict for verdict in audit().verdicts}
    assert statuses["engine-agrees"].status is Status.FAIL
    assert "likeliest" in statuses["engine-agrees"].because


def test_a_tokenizer_that_is_another_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Likeliest, "other_tokens", True)
    [verdict] = [one for one in audit().verdicts if one.check == "engine-agrees"]
    assert verdict.status is Status.FAIL
    assert "texts are cut otherwise" in verdict.because


@pytest.mark.parametrize(
    ("start", "refusal", "status", "words"),
    [
        ("", "", Status.PASS, ""),
        # Where the engine's text begins with BOS and the files' does not, that is no other text.
        ("<bos>", "", Status.PASS, ""),
        (" ", "", Status.FAIL, "2 of 2 conversations are written otherwise: ' What"),
        ("", "it has no such filter", Status.FAIL, "2 of 2 conversations are written otherwise: it has no such"),
    ],
)
def test_a_conversation_that_is_written_otherwise_or_not_at_all_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, refusal: str, status: Status, words: str
) -> None:
    folder = shutil.copytree(specimen_path(), tmp_path / "chatty")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    monkeypatch.setattr(Likeliest, "start", start.replace("<bos>", tokenizer.bos_token))
    monkeypatch.setattr(Likeliest, "refusal", refusal)
    [verdict] = [one for one in audit(source=str(folder)).verdicts if one.check == "engine-agrees"]
    assert verdict.status is status
    assert words in verdict.because


def test_a_descendant_and_its_parent_run_in_the_engine_and_the_floor_is_measured(tmp_path: Path) -> None:
    child = shutil.copytree(specimen_path(), tmp_path / "child")
    result = audit(source=str(child), parent=str(specimen_path()))
    descent = result.descent
    assert descent is not None
    first = descent.texts[0]
    assert [one.arm.purpose for one in first.measurements] == [PARENT, DESCENDANT, PARENT_DEQUANTIZED]
    assert first.protocol.engine == "likeliest"
    floor = first.measured(PARENT_DEQUANTIZED)
    assert floor is not None
    assert floor.agreement.top_tokens == TOP
    [divergence] = [verdict for verdict in result.verdicts if verdict.check == "kl-divergence"]
    told, name = {finding.label: finding for finding in divergence.findings}, next(iter(descent.label_texts()))
    assert told[f"{name}: Floor"].observed == floor.agreement.mean_divergence
    assert "of the 24 likeliest tokens" in told[f"{name}: Mean KLD"].because
    statuses = {verdict.check: verdict.status for verdict in result.verdicts}
    for gate in ("engine-agrees", "perplexity-ratio", "kl-divergence", "top1-agreement", "generation-sane"):
        assert statuses[gate] is Status.PASS, gate
    assert statuses["layer-error"] is Status.SKIPPED
    assert Likeliest.opened == Likeliest.closed == 2


def test_what_an_engine_gave_is_remembered_under_its_name(tmp_path: Path) -> None:
    first = audit(Cache(tmp_path / "cache"))
    opened = Likeliest.opened
    again = audit(Cache(tmp_path / "cache"))
    assert Likeliest.opened == opened
    assert again.measurements == first.measurements
    plain = run(
        Policy.model_validate({"model": [{"source": str(specimen_path())}], "corpus": CORPUS}),
        checks=["super-weight-located"],
        cache=Cache(tmp_path / "cache"),
    ).results[0]
    assert plain.engine is None
    assert plain.protocol.signature != first.protocol.signature


def test_what_a_server_gave_is_not_remembered(engine: EngineKind, tmp_path: Path) -> None:
    REGISTERED.remove(engine)
    server = replace(engine, takes_url=True)
    REGISTERED.append(server)
    registry.find_engines.cache_clear()
    try:
        for opened in (1, 2):
            audit(Cache(tmp_path / "cache"), url="http://127.0.0.1:9/v1")
            assert Likeliest.opened == opened
    finally:
        REGISTERED.remove(server)
        REGISTERED.append(engine)


def test_an_engine_that_there_is_not_is_named_with_the_nearest() -> None:
    with pytest.raises(PolicyError, match=r"engine 'likelist' .* there is no such engine; write 'likeliest'"):
        audit(engine="likelist")


def test_a_form_of_the_cache_and_files_that_an_engine_has_not_are_one_line(engine: EngineKind) -> None:
    with pytest.raises(InputError, match=r"kv_cache 'q8_0' .* likeliest has no such form"):
        audit(kv_cache=["q8_0"])
    with pytest.raises(PolicyError, match=r"kv_cache 'q8_0' of model .* transformers has no such form"):
        audit(engine="transformers", kv_cache=["q8_0"])
    with pytest.raises(PolicyError, match=r'`url` of model .* takes none; name `engine = "openai"`'):
        audit(url="http://127.0.0.1:9/v1")
    REGISTERED.remove(engine)
    refusing = replace(engine, find_obstacle=lambda _: "it reads no such files")
    REGISTERED.append(refusing)
    registry.find_engines.cache_clear()
    try:
        with pytest.raises(InputError, match="in likeliest: it reads no such files; name another engine"):
            audit()
    finally:
        REGISTERED.remove(refusing)
        REGISTERED.append(engine)


def test_a_model_in_memory_runs_in_no_other_engine() -> None:
    checkpoint = open_checkpoint(ModelPolicy(source=str(specimen_path())))
    policy = Policy.model_validate({"model": [{"source": "mine", "engine": "likeliest"}], "corpus": CORPUS})
    with pytest.raises(PolicyError, match="it is in memory, where likeliest cannot run it"):
        run(policy, model=checkpoint.model, tokenizer=checkpoint.tokenizer)


def test_a_release_of_an_engine_that_is_worse_than_the_one_before_fails_beside_the_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"source": str(specimen_path()), "engine": "likeliest"}
    policy = Policy.model_validate({"model": [table], "corpus": CORPUS})
    before = tmp_path / "before.json"
    before.write_text(encode_record(run(policy, checks=["engine-agrees"], saved=True)))
    again = policy.model_copy(update={"compare": str(before)})
    for off, status in ((0.0, Status.PASS), (0.5, Status.FAIL)):
        monkeypatch.setattr(Likeliest, "off", off)
        [verdict] = run(again, checks=["quality-not-worse"]).verdicts
        assert verdict.status is status, verdict.because
