"""The shipped data, held against the published figures typed a second time."""

from __future__ import annotations

import pytest

from sw_audit.index.lookup import list_dose_curves
from sw_audit.index.reading import list_citations, merge_indexes, read_published
from sw_audit.record.published import Impact, PublishedModel, PublishedWeight

INDEX = read_published()
MODELS = {model.id: model for model in INDEX.models}

# Table 2 of the paper with the one correction that its code and the weights themselves make: layer, row, column.
TABLE_2 = {
    "huggyllama/llama-7b": [(2, 3968, 7003)],
    "huggyllama/llama-13b": [(2, 2231, 2278), (2, 2231, 6939)],
    "huggyllama/llama-30b": [(3, 5633, 12817), (3, 5633, 17439), (10, 5633, 14386)],
    "meta-llama/Llama-2-7b": [(1, 2533, 7890)],
    "meta-llama/Llama-2-13b": [(3, 4743, 7678)],
    "mistralai/Mistral-7B-v0.1": [(1, 2070, 7310)],
    "allenai/OLMo-1B-0724-hf": [(1, 1764, 1710), (2, 1764, 8041)],
    "allenai/OLMo-7B-0724-hf": [(1, 269, 7467), (2, 269, 8275), (7, 269, 453), (24, 269, 2300)],
    "microsoft/Phi-3-mini-4k-instruct": [
        (2, 525, 808), (2, 1693, 808), (2, 1113, 808), (4, 525, 2723), (4, 1113, 2723), (4, 1693, 2723),
    ],
}  # fmt: skip
BEYOND = {
    "meta-llama/Meta-Llama-3-8B": [(1, 788, 2427), (1, 1384, 2427), (1, 4062, 2427)],
    "google/gemma-7b": [(0, 1995, 21041)],
    "tiiuae/falcon-7b": [(3, 2002, 10708), (4, 2002, 5921)],
    "meta-llama/Llama-3.1-8B-Instruct": [(1, 788, 2427), (1, 1384, 2427), (1, 4062, 2427)],
    "meta-llama/Meta-Llama-3-8B-Instruct": [(1, 788, 2427), (1, 1384, 2427), (1, 4062, 2427)],
    "HuggingFaceTB/SmolLM2-1.7B": [(1, 749, 4987)],
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": [(1, 749, 4987)],
    "HuggingFaceTB/SmolLM2-135M-Instruct": [(11, 507, 1229), (11, 507, 1487)],
    "Unbabel/TowerBase-7B-v0.1": [(1, 2533, 7890)],
    "Unbabel/TowerInstruct-7B-v0.1": [(1, 2533, 7890)],
    "utter-project/EuroLLM-9B-Instruct": [(9, 1448, 3575)],
    "CohereLabs/aya-expanse-8b": [(2, 2619, 1079)],
    "Qwen/Qwen3-8B": [(6, 2276, 5723)],
    "Qwen/Qwen3-8B-Base": [(6, 2276, 5723)],
    "Qwen/Qwen2.5-3B": [(2, 318, 3189)],
    "openai-community/gpt2": [(2, 447, 666)],
    "deepseek-ai/deepseek-llm-7b-base": [(1, 655, 6138)],
}
VALUES = {
    ("huggyllama/llama-7b", 7003): -1.9268,
    ("huggyllama/llama-13b", 2278): -1.8223,
    ("huggyllama/llama-13b", 6939): 1.8066,
    ("meta-llama/Llama-2-7b", 7890): 1.5625,
    ("mistralai/Mistral-7B-v0.1", 7310): -0.2734,
    ("allenai/OLMo-1B-0724-hf", 1710): 0.6323,
    ("allenai/OLMo-1B-0724-hf", 8041): -0.5924,
    ("allenai/OLMo-7B-0724-hf", 9562): -0.777,
    ("Unbabel/TowerBase-7B-v0.1", 7890): 1.5390625,
    ("Unbabel/TowerInstruct-7B-v0.1", 7890): 1.5390625,
    ("Qwen/Qwen2.5-3B", 3189): -0.5508,
    ("openai-community/gpt2", 666): 15.07,
    ("HuggingFaceTB/SmolLM2-135M-Instruct", 1229): 5.876,
    ("HuggingFaceTB/SmolLM2-135M-Instruct", 1487): 6.066,
}
# Scalars of any parameter: value, times the perplexity where it is zeroed, and with its sign flipped.
ANY_PARAMETER = {
    "model.norm.weight[17]": (-1.2578125, 22.3, "9,060,484"),
    "model.layers.1.input_layernorm.weight[507]": (0.6171875, 7.9, "1,361"),
    "model.norm.weight[322]": (2.4375, 6.2, "25.5"),
    "model.layers.29.post_attention_layernorm.weight[17]": (0.388671875, 4.0, "26"),
}
FALSE_POSITIVES = {
    ("allenai/OLMo-1B-0724-hf", 1, 1764, 8041): 0.0018,
    ("allenai/OLMo-1B-0724-hf", 15, 1764, 6840): -0.726,
    ("allenai/OLMo-1B-0724-hf", 1, 623, 1710): 0.0586,
}
# The census of rows: layer, row, rise of the loss.
CENSUS = {
    "huggyllama/llama-7b": (2, 3968, "+301 %"),
    "mistralai/Mistral-7B-v0.1": (1, 2070, "+287 %"),
    "allenai/OLMo-7B-0724-hf": (1, 269, "+112 %"),
    "HuggingFaceTB/SmolLM2-135M": (11, 507, "+313 %"),
    "HuggingFaceTB/SmolLM2-360M": (3, 87, "+59 %"),
    "HuggingFaceTB/SmolLM2-1.7B": (7, 227, "+699 %"),
    "Qwen/Qwen2.5-0.5B": (21, 62, "+0.56 %"),
    "Qwen/Qwen2.5-1.5B": (26, 408, "+0.65 %"),
    "Qwen/Qwen2.5-3B": (30, 318, "+3.2 %"),
    "Qwen/Qwen2.5-7B": (26, 458, "+0.74 %"),
    "answerdotai/ModernBERT-base": (15, 251, "+357 %"),
    "answerdotai/ModernBERT-large": (19, 379, "+221 %"),
    "mosaicml/mosaic-bert-base": (9, 287, "+0.4 %"),
    "EuroBERT/EuroBERT-210m": (3, 300, "+0.16 %"),
    "EuroBERT/EuroBERT-610m": (13, 762, "+0.9 %"),
    "EuroBERT/EuroBERT-2.1B": (14, 2198, "-0.01 %"),
    "GenerTeam/GENERator-v2-eukaryote-3b-base": (4, 2371, "+37 %"),
    "GenerTeam/GENERator-v2-prokaryote-1.2b-base": (4, 798, "+0.6 %"),
    "GenerTeam/GENERator-v2-prokaryote-3b-base": (8, 260, "+0.25 %"),
    "DOEJGI/GenomeOcean-4B": (1, 2604, "+0.76 %"),
    "zhihan1996/DNABERT-2-117M": (5, 603, "+0.8 %"),
    "InstaDeepAI/NTv3_650M_pre": (11, 1472, "-0.8 %"),
}
CATASTROPHIC_ALONE = {
    ("allenai/OLMo-1B-0724-hf", 1, 1764, 1710): 3667,
    ("mistralai/Mistral-7B-v0.1", 1, 2070, 7310): 1430,
    ("huggyllama/llama-7b", 2, 3968, 7003): 181,
    ("allenai/OLMo-7B-0724-hf", 1, 269, 7467): 79,
    ("huggyllama/llama-30b", 3, 5633, 12817): 16,
}
JOINTLY = {
    "allenai/OLMo-1B-0724-hf": 3663,
    "allenai/OLMo-7B-0724-hf": 4400,
    "microsoft/Phi-3-mini-4k-instruct": 374,
}

# The paper's figure on sensitivity, as a table: factor and, in the order of the models, percent.
SENSITIVITY = """
    0.0  35.15 29.57 31.65 -
    0.1  50.24 46.10 -     31.03
    0.2  64.21 61.26 -     38.33
    0.3  67.59 -     -     48.34
    0.4  68.86 -     -     68.57
    0.5  69.23 71.22 74.27 72.93
    0.8  -     72.21 74.95 73.81
    1.0  70.12 72.39 75.27 74.05
    1.1  -     -     75.30 -
    1.2  70.38 72.49 75.28 74.09
    1.3  -     -     75.33 -
    1.5  70.43 72.46 75.19 74.00
    1.8  -     72.40 -     -
    2.0  70.55 -     75.14 73.79
    3.0  70.26 72.01 74.86 -
"""
SENSITIVE = ("huggyllama/llama-7b", "huggyllama/llama-13b", "huggyllama/llama-30b", "mistralai/Mistral-7B-v0.1")
PERPLEXITY_DOSES = {
    "allenai/OLMo-1B-0724-hf": [(0.0, 3667.0), (0.25, 279.0), (0.5, 8.3), (0.75, 1.03)],
    "mistralai/Mistral-7B-v0.1": [(0.0, 1425.0), (0.25, 83.0), (0.5, 1.39), (0.75, 1.03)],
}
# Figures that stand in words: each has to be among what its entry says.
TOLD = {
    "huggyllama/llama-7b": ["5.67 -> 1211.11", "7.08 -> 763.65", "x181 (6.12 -> 1108)", "70.51", "70.55"],
    "huggyllama/llama-13b": ["about flat", "72.39 -> 29.57 %", "inferred from a log"],
    "huggyllama/llama-30b": ["75.27 -> 31.65 %", "perplexity x16"],
    "meta-llama/Llama-2-7b": ["x1.55, divergence 0.243 nats", "1415 and 2533", "7890", "10411", "order 1e4"],
    "meta-llama/Llama-2-13b": ["flat"],
    "mistralai/Mistral-7B-v0.1": ["x1430 (a rerun x1425, interval 1229 to 1647)", "8.08 -> infinite", "8572"],
    "allenai/OLMo-1B-0724-hf": [
        "x3667 (interval 3425 to 3920)", "13.09 -> 47,951", "13.66 -> 13.95", "-401.75", "-262", "415 in layer 15",
    ],
    "allenai/OLMo-7B-0724-hf": [
        "x79", "x1.0 to x1.2", "+2.4 %", "9.59 -> 42,024", "x2.1 on toy", "at most x1.6", "x4 on wikitext; x59",
    ],
    "microsoft/Phi-3-mini-4k-instruct": ["9.48 -> 3,543", "0.750 -> 0.298", "x1.00 to x1.02"],
    "meta-llama/Meta-Llama-3-8B": ["7.44 -> infinite", "meta/Meta-Llama-3-8B"],
    "meta-llama/Meta-Llama-3-8B-Instruct": ["198 and 2427"],
    "google/gemma-7b": ["not sufficient"],
    "tiiuae/falcon-7b": ["dense_4h_to_h", "commented out"],
    "meta-llama/Llama-3.1-8B-Instruct": ["x1.02", "0.243 nats"],
    "meta-llama/Llama-3.2-1B": ["Four super weights"],
    "HuggingFaceTB/SmolLM2-1.7B": ["6.93 -> 9.07e7", "342", "26.5", "+287 %", "+2.2 % alone", "+2.1 %"],
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": ["43.6 -> 23.4 %"],
    "HuggingFaceTB/SmolLM2-135M-Instruct": [
        "x22,603 (interval 13,150 to 40,986)", "27.6 -> 672,351", "x4.5 to x5.2", "x1.15 to x1.18", "24,836",
        "0.73", "0.27", "(1.000, interval 0.9999 to 1)", "x1.35 to x1.43", "about 800 from layer 2",
        "+313 %",
    ],
    "Unbabel/TowerBase-7B-v0.1": ["x1.58, divergence 0.464 nats", "0.96", "1.25 nats"],
    "utter-project/EuroLLM-9B-Instruct": ["divergence 3.28 nats; chrF++ 57.9 -> 4.8", "2.975 nats"],
    "CohereLabs/aya-expanse-8b": ["0.002 nats", "4e-7 nats", "spike of 732"],
    "Qwen/Qwen3-8B": ["at most x1.04", "11,968"],
    "bigscience/bloom-7b1": ["0.001 nats"],
    "Qwen/Qwen2.5-3B": ["7.219 -> 9.188 (+27 %)"],
    "openai-community/gpt2": ["25.987 -> 25.985", "29.462 -> 29.477"],
    "deepseek-ai/deepseek-llm-7b-base": ["-2.39 or -2.55", "mild repetition only"],
    "Unbabel/Tower-Plus-9B": ["0.038 nats"],
    "google/gemma-3-12b-pt": ["0.005 nats"],
    "GenerTeam/GENERator-v2-eukaryote-3b-base": ["3.40 -> 785.5"],
    "GenerTeam/GENERator-v2-prokaryote-3b-base": ["+25,975 %"],
    "zhihan1996/DNABERT-2-117M": ["-0.02 and -0.11", "-33.8"],
}  # fmt: skip


def scalars(model: PublishedModel) -> list[tuple[int | None, ...]]:
    return [weight.coordinate[:3] for weight in model.weights if weight.is_scalar]


def find(model_id: str, *coordinate: int) -> PublishedWeight:
    [weight] = [weight for weight in MODELS[model_id].weights if weight.coordinate[:3] == coordinate]
    return weight


@pytest.mark.parametrize(("model_id", "expected"), [*TABLE_2.items(), *BEYOND.items()])
def test_every_published_coordinate_is_there(model_id: str, expected: list[tuple[int, int, int]]) -> None:
    assert set(expected) <= set(scalars(MODELS[model_id]))
    if model_id in TABLE_2:
        assert all(
            "TEX" in find(model_id, *coordinate).sources or model_id.startswith("allenai/OLMo-1B")
            for coordinate in expected
        )


def test_table_2_has_twenty_one_coordinates() -> None:
    assert sum(len(coordinates) for coordinates in TABLE_2.values()) == 21


def test_values_are_those_that_were_read() -> None:
    read = {
        (model.id, weight.column): weight.value
        for model in INDEX.models
        for weight in model.weights
        if weight.value is not None
        and weight.scalar is None
        and weight.coordinate[:3] not in [(1, 1764, 8041), (15, 1764, 6840), (1, 623, 1710)]
    }
    assert read == VALUES


@pytest.mark.parametrize(("model_id", "expected"), CENSUS.items())
def test_the_census_of_rows_is_complete(model_id: str, expected: tuple[int, int, str]) -> None:
    layer, row, rise = expected
    told = [
        effect.words
        for weight in MODELS[model_id].weights
        if (weight.layer, weight.row) == (layer, row)
        for effect in weight.effects
        if effect.zeroed == "row" and effect.source == "GSL"
    ]
    assert any(f"loss {rise}" in words for words in told)


def test_exactly_five_of_the_papers_coordinates_are_catastrophic_alone() -> None:
    alone = {
        (model_id, *weight.coordinate[:3]): max(effect.ratio or 0 for effect in weight.effects)
        for model_id in TABLE_2
        for weight in MODELS[model_id].weights
        if weight.bearing is Impact.ALONE
    }
    assert alone == CATASTROPHIC_ALONE


@pytest.mark.parametrize(("model_id", "ratio"), JOINTLY.items())
def test_joint_effects_are_told_of_the_model(model_id: str, ratio: float) -> None:
    assert [effect.ratio for effect in MODELS[model_id].effects if effect.source == "SUBR"] == [ratio]


def test_the_joint_effect_on_a_model_that_was_measured_here_is_told_with_its_provenance() -> None:
    model = MODELS["HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert [effect.ratio for effect in model.effects] == [22_603, 24_363]
    assert {weight.bearing for weight in model.weights if weight.is_scalar} == {Impact.JOINTLY}
    assert model.digests == ("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",)
    [source] = [source for source in INDEX.sources if source.key == "OWN"]
    assert source.trust == next(other.trust for other in INDEX.sources if other.key == "BYU")  # one replication
    for fact in ("Q4_1", "dequantized", "float32", "wikitext-2 test", "12 windows of 256", "not yet repeated"):
        assert fact in source.note


def test_what_is_borne_jointly_has_a_joint_collapse_behind_it() -> None:
    for model in INDEX.models:
        if any(weight.bearing is Impact.JOINTLY for weight in model.weights):
            assert any(effect.zeroed == "set" for effect in model.effects), model.id


def test_a_minor_scalar_grows_perplexity_less_than_ten_times_and_one_alone_at_least_so() -> None:
    for model in INDEX.models:
        for weight in model.weights:
            ratios = [effect.ratio for effect in weight.effects if effect.ratio is not None]
            assert all(ratio < 10 for ratio in ratios) or weight.bearing is Impact.ALONE, model.id
            assert all(ratio >= 10 for ratio in ratios) or weight.bearing is not Impact.ALONE, model.id


def test_the_disagreement_about_olmo_1b_stays_visible() -> None:
    model = MODELS["allenai/OLMo-1B-0724-hf"]
    right, misprint = find(model.id, 2, 1764, 8041), find(model.id, 1, 1764, 8041)
    assert (right.value, misprint.value) == (-0.5924, 0.0018)
    assert "CODE" in right.sources
    assert "TEX" not in right.sources
    assert "TEX" in misprint.sources
    assert misprint.bearing is Impact.REFUTED
    [told] = [remark.words for remark in model.remarks if remark.kind == "disagreement"]
    for fact in ("in layer 1", "in layer 2", "13,035,937", "16,777,216", "68.4"):
        assert fact in told
    refuted = [weight for weight in model.weights if weight.bearing is Impact.REFUTED]
    assert {(model.id, *weight.coordinate[:3]): weight.value for weight in refuted} == FALSE_POSITIVES


def test_other_disagreements_stay_visible() -> None:
    told = {model.id for model in INDEX.models for remark in model.remarks if remark.kind == "disagreement"}
    assert {"huggyllama/llama-7b", "deepseek-ai/deepseek-llm-7b-base"} <= told
    assert find("deepseek-ai/deepseek-llm-7b-base", 1, 655, 6138).value is None
    disputed = {variant.id: variant.claim for model in INDEX.models for variant in model.variants}
    for variant in ("mistralai/Mistral-7B-Instruct-v0.1", "meta-llama/Llama-2-7b-chat-hf"):
        assert "criticality is disputed" in disputed[variant]


def test_dose_curves_are_those_of_the_figure_point_by_point() -> None:
    rows = [line.split() for line in SENSITIVITY.split("\n") if line.strip()]
    expected = {
        (model_id, "NB"): [(float(row[0]), float(row[place])) for row in rows if row[place] != "-"]
        for place, model_id in enumerate(SENSITIVE, start=1)
    }
    expected |= {(model_id, "BYU"): points for model_id, points in PERPLEXITY_DOSES.items()}
    curves = {(model.id, curve.source): list(curve.points) for model in INDEX.models for curve in model.curves}
    assert curves == expected
    units = {one.source: one.unit for model in INDEX.models for one in model.curves}
    assert units == {"NB": "percent", "BYU": "perplexity ratio"}
    shown = list_dose_curves(INDEX, MODELS["huggyllama/llama-7b"])
    assert [(curve.model, curve.unit, curve.is_perplexity_ratio) for curve in shown] == [
        ("huggyllama/llama-7b", "percent", False),
        *((model_id, "perplexity ratio", True) for model_id in sorted(PERPLEXITY_DOSES, reverse=True)),
    ]


@pytest.mark.parametrize(("model_id", "figures"), TOLD.items())
def test_figures_that_stand_in_words_are_those_of_the_sources(model_id: str, figures: list[str]) -> None:
    model = MODELS[model_id]
    effects = [*model.effects, *(effect for weight in model.weights for effect in weight.effects)]
    told = [statement.words for statement in (*effects, *model.remarks)] + [
        weight.note for weight in model.weights
    ]
    for figure in figures:
        assert any(figure in words for words in told), figure


def test_every_entry_cites_and_every_source_is_cited_and_can_be_found() -> None:
    cited = {key for model in INDEX.models for key in list_citations(model)}
    assert cited == {source.key for source in INDEX.sources}
    assert all(
        weight.effects or weight.note or weight.sources for model in INDEX.models for weight in model.weights
    )
    for source in INDEX.sources:
        assert source.arxiv or source.url or source.note or source.venue, source.key
        assert source.finding is None


def test_scalars_of_any_parameter_are_told_beside_the_super_weights() -> None:
    model = MODELS["HuggingFaceTB/SmolLM2-135M-Instruct"]
    told = {str(weight): weight for weight in model.weights if weight.scalar is not None}
    assert list(told) == list(ANY_PARAMETER)
    for name, (value, ratio, flipped) in ANY_PARAMETER.items():
        [effect] = told[name].effects
        assert (told[name].value, effect.ratio) == (value, ratio)
        assert f"x{ratio:g} (2 windows of 96)" in effect.words
        assert f"sign flipped x{flipped}" in effect.words
        assert told[name].bearing is (Impact.ALONE if ratio >= 10 else Impact.MINOR)


def test_no_two_entries_or_ids_are_the_same() -> None:
    ids = [key.casefold() for model in INDEX.models for key in (model.id, *model.aliases)]
    ids += [variant.id.casefold() for model in INDEX.models for variant in model.variants]
    assert len(set(ids)) == len(ids)
    for model in INDEX.models:
        coordinates = [(weight.coordinate, weight.scalar) for weight in model.weights]
        assert len(set(coordinates)) == len(coordinates)
    assert merge_indexes(INDEX) == INDEX
