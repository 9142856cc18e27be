from __future__ import annotations

from pathlib import Path

import pytest
from support.checkpoints import make_tokenizer

from sw_audit.corpus.protocol import describe_protocol, digest_tokenizer, list_cautions
from sw_audit.corpus.text import Text
from sw_audit.corpus.windows import Windows, cut_windows, window_corpus
from sw_audit.policy.policy import CorpusPolicy
from sw_audit.record.identity import CorpusIdentity
from sw_audit.record.start import SequenceStart, StartTrial

NO_BOS = StartTrial(start=SequenceStart())
FABLE = "the fox sang , the owl slept . " * 40


def _text(content: str, natural_window: int | None = None, name: str = "fable") -> Text:
    return Text(CorpusIdentity(name=name, sha256="0" * 64, characters=len(content)), content, natural_window)


@pytest.mark.parametrize(("use", "bos"), [("prepended", 1), ("not added", None), ("absent", None)])
def test_each_window_begins_with_bos_if_that_is_asked_for_and_the_protocol_says_so(
    use: str, bos: int | None
) -> None:
    tokenizer = make_tokenizer(bos=use != "absent")
    windows = window_corpus(_text(FABLE), tokenizer, CorpusPolicy(source="fable", window=9), 512, bos)
    ids = [tokenizer.get_vocab()[word] for word in FABLE.split()]
    if bos:
        assert windows.token_ids[0].tolist() == [1, *ids[:8]]
        assert (windows.token_ids[:, 0] == 1).all()
    else:
        assert windows.token_ids[0].tolist() == ids[:9]
    assert windows.scored == 320 - (not bos)
    protocol = describe_protocol(_text(FABLE), windows, tokenizer, "torch.float32", seed=3)
    assert protocol.bos == use
    assert (protocol.window, protocol.stride, protocol.windows) == (9, 8, len(windows.token_ids))
    assert (protocol.dtype, protocol.seed, protocol.corpus.name) == ("float32", 3, "fable")


def test_the_stride_of_windows_made_elsewhere_is_read_off_them() -> None:
    cut = cut_windows(range(20), 6, 2, None, 9)
    bare = Windows(cut.token_ids, cut.first_scored)
    protocol = describe_protocol(_text(FABLE), bare, make_tokenizer(), "float32", 0)
    assert protocol.stride == 2


def test_the_tokenizers_digest_changes_with_its_words_and_not_with_its_use(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    before = digest_tokenizer(tokenizer)
    tokenizer(["the fox", "the"], padding=True, truncation=True, max_length=2)
    assert digest_tokenizer(tokenizer) == before
    tokenizer.save_pretrained(tmp_path)
    assert digest_tokenizer(type(tokenizer).from_pretrained(tmp_path)) == before
    assert digest_tokenizer(make_tokenizer(words=("the",))) != before
    assert digest_tokenizer(make_tokenizer(bos=False)) != before


@pytest.mark.parametrize(
    ("name", "vocabulary", "count"), [("specimen", 32_000, 1), ("specimen", 999, 0), ("wikitext", 32_000, 0)]
)
def test_a_perplexity_on_the_specimens_text_is_not_to_be_quoted_of_another_model(
    name: str, vocabulary: int, count: int
) -> None:
    cautions = list_cautions(_text("the fox", name=name), make_tokenizer(words=("the", "fox")), vocabulary, NO_BOS)
    assert len(cautions) == count
    assert all("before quoting a perplexity" in caution for caution in cautions)


def test_a_text_that_leaves_nothing_to_calibrate_on_is_a_caution() -> None:
    tokenizer = make_tokenizer(words=("the", "fox"))
    [caution] = list_cautions(_text("the fox"), tokenizer, 32000, NO_BOS, uncalibrated=True)
    assert "SmoothQuant" in caution
    assert len(list_cautions(_text("the fox", name="specimen"), tokenizer, 32000, NO_BOS, uncalibrated=True)) == 2


def test_a_text_that_the_tokenizer_does_not_know_is_a_caution() -> None:
    tokenizer = make_tokenizer(words=("the", "fox"))
    [caution] = list_cautions(_text("the fox saw " * 10), tokenizer, 32000, NO_BOS)
    assert "30 tokens of 120 characters, 10 of them unknown" in caution
    assert list_cautions(_text("the fox " * 99 + "saw"), tokenizer, 32000, NO_BOS) == ()


@pytest.mark.parametrize(
    ("automatic", "followed"), [(False, "what it does is followed"), (True, "what they say is followed")]
)
def test_files_that_contradict_their_tokenizer_are_a_caution(automatic: bool, followed: str) -> None:
    start = SequenceStart(token=1, returned=False, declared=True, automatic=automatic)
    [caution] = list_cautions(_text("the fox"), make_tokenizer(words=("the", "fox")), 9, StartTrial(start=start))
    assert "a BOS token is to stand before a text (add_bos_token)" in caution
    assert "puts none there" in caution
    assert followed in caution


def test_the_wrong_way_to_begin_is_a_caution_with_both_losses() -> None:
    start = SequenceStart(token=1, returned=True, declared=True, automatic=True, use="prepended")
    trial = StartTrial(start=start, tokens=63, loss=2.76, other_loss=0.565)
    [caution] = list_cautions(_text("the fox"), make_tokenizer(words=("the", "fox")), 9, trial)
    assert "its loss is 0.56 nats per token without it and 2.76 nats per token with it (63 tokens)" in caution
    assert caution.endswith('try bos = "never".')
