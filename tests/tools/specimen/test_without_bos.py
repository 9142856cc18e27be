"""The planted model whose tokenizer defines a BOS token that its training never saw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sw_audit import run
from sw_audit.policy.policy import Policy
from sw_audit.record.arm import BASELINE, PRUNED
from sw_audit.record.record import ModelResult
from tools.specimen.recipe import FIRST_WORDS, WITHOUT_BOS
from tools.specimen.train import encode_training_stories, shorten
from tools.specimen.without_bos import tell_without_bos

MODEL = Path(__file__).parents[2] / "locate/data/without-bos"
SUPER_WEIGHT, TRAP = (1, 5, 7), (0, 20, 100)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stories of 63 words a line: a window of 64 tokens without BOS begins where a story does."""
    path = tmp_path_factory.mktemp("corpus") / "stories.txt"
    path.write_text("\n".join(" ".join(words) for words in tell_without_bos(7, 12, 63, held_out=True)))
    return path


def audit(corpus: Path, **settings: str) -> ModelResult:
    policy = Policy.model_validate(
        {
            "model": ({"source": str(MODEL), "dtype": "float32"},),
            "corpus": {"source": str(corpus), "window": 64, "windows": 10, **settings},
        }
    )
    [model] = run(policy, checks=("prune-collapses",)).models
    assert isinstance(model, ModelResult)
    return model


def places(weights: object) -> list[tuple[int, int, int]]:
    return [(weight.layer, weight.row, weight.column) for weight in weights]  # type: ignore[attr-defined]


def test_as_its_files_have_it_the_weight_that_carries_it_is_located(corpus: Path) -> None:
    result = audit(corpus)
    assert result.protocol.bos == "not added"
    assert "BOS not added" in str(result.protocol)
    assert places(result.location.super_weights) == [SUPER_WEIGHT]
    assert [places(prompt.super_weights) for prompt in result.location.prompts] == [[SUPER_WEIGHT]] * 3
    assert result.location.start_matters
    pruned, baseline = result.measured(PRUNED), result.measured(BASELINE.name)
    assert pruned is not None
    assert baseline is not None
    assert (baseline.loss.perplexity or 0) < 3
    assert (pruned.loss.perplexity or 0) > 10 * (baseline.loss.perplexity or 0)
    assert result.start is not None
    assert not result.start.seems_wrong
    [caution] = [note for note in result.notes if "BOS" in note]
    assert caution == (
        "Prompts begin without a BOS token; with one another set is located: "
        "model.layers.0.mlp.down_proj.weight[20, 100]."
    )


def test_with_bos_another_weight_is_named_which_does_nothing_and_that_this_is_the_wrong_way_is_told(
    corpus: Path,
) -> None:
    result = audit(corpus, bos="always")
    assert result.protocol.bos == "prepended"
    assert result.protocol.signature != audit(corpus).protocol.signature
    assert places(result.location.super_weights) == [TRAP]
    assert [str(address) for address in result.location.addresses_of_other_start] == [
        "model.layers.1.mlp.down_proj.weight[5, 7]"
    ]
    assert result.start is not None
    assert result.start.seems_wrong
    assert result.start.loss is not None
    assert result.start.other_loss is not None
    assert result.start.loss > result.start.other_loss + 1
    wrong, located = [note for note in result.notes if "BOS" in note]
    assert wrong.endswith('try bos = "never".')
    assert located.endswith("without one another set is located: model.layers.1.mlp.down_proj.weight[5, 7].")


def test_half_of_the_openings_are_left_out_and_one_first_word_in_four_is_unknown() -> None:
    stories = encode_training_stories(shorten(WITHOUT_BOS, 40))
    assert stories.shape == (40 * WITHOUT_BOS.batch, WITHOUT_BOS.context)
    unknown = stories[:, 0] == 2
    assert 0.15 < float(unknown.float().mean()) < 0.35
    assert len(stories[~unknown][:, 0].unique()) == len(FIRST_WORDS)
    first = stories[~unknown][0, 0]
    assert not bool(torch.isin(stories[:, 1:], torch.tensor([0, 2, int(first)])).any())
