"""Where the super weights are: the sentence, what the weights alone predict, and who has published them."""

from __future__ import annotations

import pytest
from support.evidence import (
    NOT_PUBLISHED,
    PARAMETER,
    PREDICTION,
    SUPER_WEIGHT,
    make_evidence,
    make_location,
    make_none_evidence,
    make_published,
)
from support.sections import build_section, make_context, read, read_rows, render_example, summarize
from sw_audit_reports.elements import Paragraph
from sw_audit_reports.sections.location import list_predicted, list_sources, list_stages

from sw_audit.index.lookup import find_published
from sw_audit.index.reading import read_published
from sw_audit.record.arm import PRUNED
from sw_audit.record.location import Outcome, PromptLocation, Rotation, Stage, TakeDown
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status, Verdict

COORDINATE = f"{PARAMETER}[37, 211]"


def make_collapse(status: Status, observed: float | None = 213.6) -> Verdict:
    low, high = (None, None) if observed is None else (observed - 2, observed + 2)
    figures = {"observed": observed, "low": low, "high": high, "status": status}
    return Verdict.model_validate(
        {"check": "prune-collapses", "model": "specimen", "arm": "pruned", "because": "-", **figures}
    )


def say(evidence: ModelResult, *verdicts: Verdict) -> str:
    return summarize("location", make_context(evidence, verdicts))


@pytest.mark.parametrize(
    ("verdict", "sentence"),
    [
        (
            make_collapse(Status.PASS),
            f"One scalar carries this model: zeroing {COORDINATE} multiplies perplexity by 213.6 [211.6, 215.6].",
        ),
        (
            make_collapse(Status.FAIL, 2.5),
            f"One super weight was located, but zeroing {COORDINATE} "
            "only multiplies perplexity by 2.5 [0.5, 4.5].",
        ),
        (
            make_collapse(Status.INCONCLUSIVE, 10.5),
            f"One super weight was located: zeroing {COORDINATE} multiplies perplexity by 10.5 [8.5, 12.5].",
        ),
        (None, f"One super weight was located: zeroing {COORDINATE} multiplies perplexity by 213.6."),
    ],
)
def test_the_sentence_follows_the_verdict_on_the_collapse(verdict: Verdict | None, sentence: str) -> None:
    assert say(make_evidence(), *([verdict] if verdict else [])) == sentence


def test_a_perplexity_that_is_not_finite_is_said_and_what_was_not_measured_is_not_claimed() -> None:
    sentence = say(make_evidence(ratios={PRUNED.name: None}), make_collapse(Status.PASS, None))
    assert sentence == f"One scalar carries this model: zeroing {COORDINATE} leaves no finite perplexity."
    sentence = say(make_evidence(omit=(PRUNED.name,)))
    assert sentence == f"One super weight was located, {COORDINATE}; what zeroing it does is not known."


def test_two_scalars_are_named_and_more_are_counted() -> None:
    def say_of(number: int) -> str:
        weights = tuple(SUPER_WEIGHT.model_copy(update={"row": row, "layer": row % 2}) for row in range(number))
        location = make_location().model_copy(update={"super_weights": weights})
        return say(make_evidence(location=location), make_collapse(Status.PASS))

    two = f"Two scalars carry this model: zeroing {PARAMETER}[0, 211] and {PARAMETER}[1, 211]"
    assert say_of(2).startswith(two)
    assert say_of(4).startswith(
        "Four scalars carry this model: zeroing all of them (in layers 0 and 1) multiplies"
    )


def test_none_and_distributed_say_why() -> None:
    assert say(make_none_evidence()).startswith("No super weight was found: no channel of")
    assert "no handful of scalars explains it: six scalars" in say(make_evidence(outcome=Outcome.DISTRIBUTED))


def test_what_the_weights_alone_say_has_one_line_per_super_weight() -> None:
    [row] = read_rows(list_predicted(make_location()))
    assert row == [COORDINATE, "1 of 128", "31.6", "1 of 344", "94.2 %", "yes"]


def test_a_prediction_that_does_not_agree_says_so_and_a_missing_figure_is_not_made_up() -> None:
    changes = {"agrees": False, "row_rank": 12, "row_ratio": None, "share": None}
    doubtful = PREDICTION.model_copy(update={"weights": (PREDICTION.weights[0].model_copy(update=changes),)})
    [row] = read_rows(list_predicted(make_location().model_copy(update={"weight_norm_prediction": doubtful})))
    assert row[1:] == ["12 of 128", "-", "1 of 344", "-", "no"]
    assert list_predicted(make_location(Outcome.NONE)) is None
    assert list_predicted(make_location().model_copy(update={"weight_norm_prediction": None})) is None


def test_every_key_that_the_check_names_is_explained() -> None:
    lookup = find_published(read_published(), "huggyllama/llama-7b")
    sources = {row[0]: row[1] for row in read_rows(list_sources(lookup))}
    assert lookup.model is not None
    assert {key for weight in lookup.model.weights for key in weight.sources} <= set(sources)
    assert "The Super Weight in Large Language Models" in sources["TEX"]
    assert "arXiv 2411.07191v2" in sources["TEX"]


def test_where_nothing_is_published_there_is_no_table() -> None:
    assert list_sources(None) is None
    assert list_sources(NOT_PUBLISHED) is None
    assert list_sources(make_published().model_copy(update={"sources": ()})) is None


def test_the_report_shows_predictions_and_sources_of_the_models_that_have_some() -> None:
    page = render_example()[1]
    # The specimen and the broken one are in the made-up index, the control is not.
    assert page.text.count("Who has published coordinates of this model") == 2
    found, charts = page.text.index("What was found"), page.text.index("What it does")
    assert found < page.text.index("Predicted from the weights alone") < charts


def test_a_super_activation_that_is_made_twice_is_told_with_what_makes_it_first() -> None:
    stage = Stage(
        channel=37,
        token=0,
        value=754.0,
        first_layer=2,
        last_layer=8,
        taken_down=TakeDown(first_layer=8, last_layer=9, left=0.054),
        causes=(SUPER_WEIGHT.model_copy(update={"share": 0.35}), SUPER_WEIGHT.model_copy(update={"column": 9})),
    )
    location = make_location().model_copy(update={"earlier_stages": (stage,)})
    rows = read_rows(list_stages(location))
    assert rows[0] == ["37", "0", "754", "2 to 8", "8 to 9", "5.4 %", COORDINATE, "35 %"]
    assert rows[1][-2] == f"{PARAMETER}[37, 9]"
    assert list_stages(make_location()) is None


def test_prompts_that_differ_and_a_set_that_hangs_on_bos_are_told() -> None:
    location = make_location()
    [weight] = location.super_weights
    other = weight.model_copy(update={"column": 5})
    shown = [
        PromptLocation(
            prompt=f"prompt {number}",
            token_ids=(1, 2),
            bos=bos,
            outcome=Outcome.LOCATED,
            because="-",
            super_weights=(scalar,),
        )
        for number, (bos, scalar) in enumerate(
            [(True, weight), (True, weight), (True, other), *[(False, other)] * 3]
        )
    ]
    update = {"prompts": tuple(shown[:3]), "other_start": tuple(shown[3:])}
    evidence = make_evidence().model_copy(update={"location": location.model_copy(update=update)})
    page = build_section("location", make_context(evidence)).text
    assert "1 of 3 prompts show something else: 'prompt 2' shows" in page
    assert f"Prompts begin with a BOS token; without one another set is located: {PARAMETER}[37, 5]." in page
    same = location.model_copy(update={"prompts": tuple(shown[:2]), "other_start": tuple(shown[:2])})
    assert (same.agreement, same.beginning) == (
        "2 prompts show the same",
        "prompts begin with a BOS token; without one the same is located",
    )


def test_a_rotated_checkpoint_is_told_of() -> None:
    rotation = Rotation(declared=True, because="`rotation` in its quantization_config says so")
    location = make_location(Outcome.NONE).model_copy(update={"rotation": rotation})
    told = [
        read(element.cells)
        for element in build_section("location", make_context(make_evidence(location=location))).elements
        if isinstance(element, Paragraph)
    ]
    assert any(words.startswith("The checkpoint is rotated: ") for words in told)
