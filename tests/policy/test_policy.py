"""Policies: what is read, what is refused, and what is written."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from sw_audit.checks.limits import CheckLimits, Limits
from sw_audit.checks.other_outliers_harmless import OtherOutliersHarmlessLimits
from sw_audit.checks.prune_collapses import PruneCollapsesLimits
from sw_audit.checks.registry import find_checks
from sw_audit.checks.rtn_holdout_quality import LARGE_MODELS, SMALL_MODELS, RtnHoldoutQualityLimits
from sw_audit.checks.stopword_shift import StopwordShiftLimits
from sw_audit.checks.super_weight_located import SuperWeightLocatedLimits
from sw_audit.errors import PolicyError
from sw_audit.fact import Fact
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy, Policy, QuantizationPolicy
from sw_audit.policy.reading import overlay_policy, parse_policy, read_policy
from sw_audit.policy.writing import commented_policy

FULL = """
expect = "any"
seed = 3
confidence = 0.9
prompts = ["one", "two"]

[[model]]
source = "models/a"
dtype = "bfloat16"

[[model]]
source = "models/b"
expect = "none"

[corpus]
source = "text.txt"
windows = 64
stop_words = ["the", "of"]

[quantization]
recipes = ["int4/64x64", "INT8/row/symmetric"]

[checks.prune-collapses]
minimum_ratio = 100

[checks.rtn-holdout-quality]
maximum_ratio = { "int4/64x64" = 1.5 }

[checks.stopword-shift]
enabled = false
"""


def uncomment_keys(text: str) -> str:
    return re.sub(r"^#(?! )", "", text, flags=re.MULTILINE)


def list_paths(value: object, prefix: str = "") -> Iterator[str]:
    """Yield the path of every key that a policy can have."""
    if isinstance(value, CheckLimits):
        for check, limits in value.items():
            yield from list_paths(limits, f"{prefix}.{check}")
    elif isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            yield from list_paths(getattr(value, name), f"{prefix}.{field.alias or name}")
    elif isinstance(value, tuple) and value and isinstance(value[0], Fact):
        yield from list_paths(value[0], prefix)
    else:
        yield prefix.lstrip(".")


def complain(data: dict[str, Any]) -> str:
    with pytest.raises(PolicyError) as caught:
        parse_policy(data, "mine.toml")
    message = str(caught.value)
    assert message.startswith("policy mine.toml")
    return message


def test_an_empty_file_is_the_default_policy(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("")
    assert read_policy(tmp_path / "p.toml") == Policy()


def test_every_part_of_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(FULL)
    policy = read_policy(tmp_path / "p.toml")
    assert [model.id for model in policy.models] == ["a", "b"]
    assert [policy.expectation(model) for model in policy.models] == ["any", "none"]
    assert policy.models[0].dtype == "bfloat16"
    assert policy.corpus == CorpusPolicy(source="text.txt", windows=64, stop_words=("the", "of"))
    assert CorpusPolicy(window=64, stride=64).stride == 64
    assert policy.quantization.recipes == ("int4/64x64", "int8/row/symmetric")
    assert policy.checks[PruneCollapsesLimits].minimum_ratio == 100
    assert policy.checks[RtnHoldoutQualityLimits].maximum_ratio == {"int4/64x64": 1.5}
    assert not policy.checks[StopwordShiftLimits].enabled
    assert policy.prompts == ("one", "two")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        # A misspelt key is named with the nearest valid one.
        ({"corpuss": {}}, "key corpuss: there is no key 'corpuss'; write 'corpus'"),
        ({"corpus": {"windos": 1}}, "key corpus.windos: there is no key 'windos'; write 'windows'"),
        (
            {"model": [{"source": "x"}, {"sorce": "y"}]},
            "key model[1].sorce: there is no key 'sorce'; write 'source'",
        ),
        (
            {"checks": {"prune-collapses": {"minimum_rato": 1}}},
            "key checks.prune-collapses.minimum_rato: there is no key 'minimum_rato'; write 'minimum_ratio'",
        ),
        ({"resamples": 2000}, "key resamples: there is no such key any more"),
        ({"zzz": 1}, "there is no key 'zzz'; choose among schema, model, corpus"),
        ({"checks": {"prune-colapses": {}}}, "there is no check 'prune-colapses'; write 'prune-collapses'"),
        ({"checks": {"prune_colapses": {}}}, "there is no check 'prune_colapses'; write 'prune-collapses'"),
        ({"checks": {"holdout-beats-rtn": {}}}, "no check 'holdout-beats-rtn'; write 'holdout-beats-plain-rtn'"),
        # A value of a wrong type is named with its key.
        ({"seed": "1"}, "key seed: '1' does not do; input should be a valid integer"),
        ({"seed": 1.0}, "key seed"),
        ({"budget": True}, "key budget: True is no length of time such as 90, 90s, 5min or 1h30min"),
        ({"budget": "soon"}, "key budget: 'soon' is no length of time"),
        ({"confidence": "high"}, "key confidence"),
        ({"corpus": "text.txt"}, "key corpus"),
        ({"corpus": {"windows": True}}, "key corpus.windows"),
        ({"corpus": {"source": 5}}, "key corpus.source"),
        ({"model": {"source": "x"}}, "key model: a table does not do"),
        ({"model": [{"source": "x", "allow_pickle": "yes"}]}, "key model[0].allow_pickle"),
        ({"model": [{}]}, "key model[0].source: it is missing"),
        ({"quantization": {"recipes": "int4/row"}}, "key quantization.recipes"),
        ({"prompts": [["a"]]}, "key prompts[0]: a list does not do"),
        # A value out of range is named with what is allowed.
        ({"checks": {"prune-collapses": {"minimum_ratio": 0}}}, "key checks.prune-collapses.minimum_ratio: 0"),
        ({"checks": {"super-activation-persists": {"tolerance": 1.5}}}, "less than or equal to 1"),
        ({"checks": {"placebo-harmless": {"draws": 0}}}, "greater than or equal to 1"),
        ({"confidence": 1}, "less than 1"),
        ({"confidence": float("inf")}, "finite"),
        ({"confidence": float("nan")}, "finite"),
        ({"expect": "maybe"}, "'some', 'none' or 'any'"),
        ({"schema": 2}, "key schema: 2"),
        ({"corpus": {"window": 4, "stride": 9}}, "stride 9 is larger than window 4"),
        ({"quantization": {"recipes": ["int9/row"]}}, "key quantization.recipes: recipe 'int9/row'"),
        ({"checks": {"rtn-holdout-quality": {"maximum_ratio": {"int9/row": 2}}}}, "recipe 'int9/row'"),
        (
            {"checks": {"rtn-holdout-quality": {"maximum_ratio": {"int4/row": 2}}}},
            "limits 'int4/row', which is not among",
        ),
        ({"model": [{"source": "a"}, {"source": "b/a"}]}, "two models are called 'a'"),
    ],
)
def test_whatever_is_wrong_is_named_with_its_key(data: dict[str, Any], words: str) -> None:
    assert words in complain(data)


def test_a_check_that_resembles_none_is_answered_with_all_of_them() -> None:
    message = complain({"checks": {"zzzzzz": {}}})
    assert all(check in message for check in tuple(find_checks()))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"expect = some", "it is not TOML"),
        (b"seed = 1\nseed = 2", "it is not TOML"),
        (b"\xff\xfe", "it is not text in UTF-8"),
        (b"seed = 2026-01-02", "key seed: a table does not do"),
    ],
)
def test_a_file_that_is_no_policy_is_one_clear_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "p.toml"
    path.write_bytes(content)
    with pytest.raises(PolicyError, match=words) as caught:
        read_policy(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="No such file") as caught:
        read_policy(tmp_path / "none.toml")
    assert "sw-audit init" in str(caught.value)
    with pytest.raises(PolicyError, match="directory"):
        read_policy(tmp_path)


def test_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("seed = 4", encoding="utf-8-sig")
    assert read_policy(tmp_path / "p.toml").seed == 4


def test_the_written_policy_is_the_default_one() -> None:
    assert parse_policy(tomllib.loads(commented_policy()), "written") == Policy()


def test_the_written_policy_parses_with_every_key_uncommented() -> None:
    data = tomllib.loads(uncomment_keys(commented_policy()))
    policy = parse_policy(data, "written")
    assert policy.models[0].source == data["model"][0]["source"]
    assert policy.checks[PruneCollapsesLimits] == PruneCollapsesLimits(level="gate")


def test_the_written_policy_holds_every_key_with_its_meaning() -> None:
    text = commented_policy()
    data = tomllib.loads(uncomment_keys(text))
    written = set(list_paths(parse_policy(data, "written")))
    for path in written:
        table, _, key = path.rpartition(".")
        part: Any = data
        for name in table.split(".") if table else ():
            part = part[name][0] if isinstance(part[name], list) else part[name]
        assert key in part, path
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"#\w+ = ", line):
            assert lines[number - 1].startswith("# "), line
    assert max(len(line) for line in lines) <= 115
    # The id of a check is not broken over lines: it could not be searched for.
    assert not any(line.endswith("-") for line in lines)
    for check in tuple(find_checks()):
        assert f"[checks.{check}]" in lines


def test_a_written_waiver_names_a_check_that_there_is() -> None:
    data = tomllib.loads(uncomment_keys(commented_policy()))
    assert [waiver["check"] in find_checks() for waiver in data["waiver"]] == [True]


def test_limits_of_another_package_need_no_meaning_and_no_example(monkeypatch: pytest.MonkeyPatch) -> None:
    class BareLimits(Limits):
        bound: float | None = None

    bare = replace(next(iter(find_checks().values())), id="bare", limits=BareLimits)
    monkeypatch.setattr("sw_audit.policy.writing.find_checks", lambda: {"bare": bare})
    written = commented_policy()
    assert "[checks.bare]" in written
    assert tomllib.loads(uncomment_keys(written))["checks"]["bare"]["bound"] == "..."


def test_the_written_policy_names_models_when_told_to(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(commented_policy(["models/a", 'we"ird']), encoding="utf-8")
    assert [model.source for model in read_policy(path).models] == ["models/a", 'we"ird']


def test_an_engine_is_asked_for_every_model_and_for_a_parent_that_a_source_names() -> None:
    policy = Policy.model_validate({"model": [{"source": "a", "parent": "b"}, {"source": "c", "parent": "a"}]})
    asked = overlay_policy(policy, engine="llama.cpp", **{"kv-cache": ["q8_0"]})
    assert [(model.engine, model.kv_cache) for model in asked.models] == [("llama.cpp", ("q8_0",))] * 2
    assert all(model.in_engine for model in asked.models)
    named, own = (asked.find_parent(model) for model in asked.models)
    assert named is not None
    assert (named.source, named.engine, named.kv_cache) == ("b", "llama.cpp", ())
    assert own == asked.models[0]
    assert not policy.models[0].in_engine


def test_options_go_on_top_of_a_policy() -> None:
    policy = parse_policy(tomllib.loads(FULL), "full")
    over = overlay_policy(policy, seed=9, windows=16, dtype="float32", device="cuda:0", confidence=None)
    assert (over.seed, over.corpus.windows, over.confidence) == (9, 16, 0.9)
    assert [(model.dtype, model.device) for model in over.models] == [("float32", "cuda:0")] * 2
    assert over.corpus.stop_words == ("the", "of")
    assert over.checks == policy.checks
    assert overlay_policy(policy) == policy


@pytest.mark.parametrize("written", [90, "90", "90s", "1min30s"])
def test_a_budget_is_a_number_of_seconds_or_has_units(written: object) -> None:
    policy = parse_policy({"budget": written}, "it")
    assert policy.budget == 90
    assert overlay_policy(policy, budget="5min").budget == 300
    assert overlay_policy(policy).budget == 90


def test_an_expectation_on_top_goes_before_the_models_own() -> None:
    policy = parse_policy(tomllib.loads(FULL), "full")
    over = overlay_policy(policy, expect="some")
    assert [over.expectation(model) for model in over.models] == ["some", "some"]


def test_another_text_takes_nothing_over_but_how_it_is_cut() -> None:
    policy = parse_policy(tomllib.loads(FULL), "full")
    assert overlay_policy(policy, corpus="other.txt").corpus == CorpusPolicy(source="other.txt", windows=64)
    merged = overlay_policy(policy, corpus={"windows": 5}).corpus
    assert merged == CorpusPolicy(source="text.txt", windows=5, stop_words=("the", "of"))


def test_models_recipes_and_limits_can_be_put_on_top() -> None:
    over = overlay_policy(
        Policy(),
        models=["x/y", {"source": "z", "id": "zed"}, ModelPolicy(source="w", dtype="float16"), Path("p/q")],
        recipes=["int8/row"],
        checks={"prune-collapses": {"minimum_ratio": 3.0}},
    )
    assert [(model.id, model.dtype) for model in over.models] == [
        ("y", "auto"),
        ("zed", "auto"),
        ("w", "float16"),
        ("q", "auto"),
    ]
    assert over.quantization.recipes == ("int8/row",)
    assert over.checks[PruneCollapsesLimits].minimum_ratio == 3
    again = overlay_policy(over, checks={"prune-collapses": {"enabled": False}}).checks[PruneCollapsesLimits]
    assert (again.enabled, again.minimum_ratio) == (False, 3)


@pytest.mark.parametrize("options", [{"sede": 1}, {"seed": -1}, {"windows": 0}, {"recipes": ["int9/row"]}])
def test_an_option_that_cannot_be_is_one_clear_line(options: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="policy options"):
        overlay_policy(Policy(), **options)


def test_a_policy_that_was_put_together_in_python_can_be_overlaid() -> None:
    policy = Policy().model_copy(update={"models": (ModelPolicy(source="a"),)})
    assert overlay_policy(policy, device="cuda").models[0].device == "cuda"


def test_the_default_policy_is_the_documented_one() -> None:
    policy = Policy()
    assert policy.models == ()
    assert (policy.expect, policy.inconclusive, policy.seed) == ("any", "fail", 0)
    assert (policy.confidence, policy.minimum_windows) == (0.95, 4)
    assert policy.corpus.source == "auto"
    limits = policy.checks
    assert limits[SuperWeightLocatedLimits].maximum_count == 6
    assert limits[SuperWeightLocatedLimits].early_fraction == 1 / 2
    assert limits[PruneCollapsesLimits].minimum_ratio == 10
    assert limits[OtherOutliersHarmlessLimits].fraction == 1e-6
    assert (limits[StopwordShiftLimits].minimum_ratio, limits[StopwordShiftLimits].maximum_ratio) == (None, None)
    assert all(limits.of(check).enabled for check in tuple(find_checks()))


def test_limits_by_size_are_of_recipes_that_are_measured_by_default() -> None:
    for limits in (SMALL_MODELS, LARGE_MODELS):
        assert set(limits) - {"int4/group128"} <= set(Policy().quantization.recipes)


def test_every_check_has_limits_and_no_limits_are_without_a_check() -> None:
    for check in find_checks().values():
        assert isinstance(CheckLimits().of(check.id), Limits)
        assert check.title[0].isupper()
        assert not check.title.endswith(".")
        assert check.meaning.endswith(".")
    with pytest.raises(KeyError):
        CheckLimits().of("no-such-check")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("models/llama-w4/", "llama-w4"),
        ("org/Model-7B", "Model-7B"),
        (r"C:\models\mine", "mine"),
        ("a[b]:c", "a-b--c"),
        ("/", "model"),
        ("..", "model"),
        ("a/red\x1b[31m\a\nPASSED", "red-x1b-31m-x07-nPASSED"),
        ("a/gpj\u202e.exe", "gpj-u202e.exe"),
        ("a/模型-é", "模型-é"),
    ],
)
def test_a_model_is_called_after_the_last_part_of_its_source(source: str, name: str) -> None:
    assert ModelPolicy(source=source).id == name


def test_a_name_of_10_kb_gives_a_short_id() -> None:
    name = ModelPolicy(source=f"org/{'x' * 10_000}").id
    assert len(name) == 200
    assert "10,000 characters in all" in name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("red\x1b", "an id has no characters that cannot be seen"),
        ("two\nlines", "an id has no characters that cannot be seen"),
        ("gpj\u202e", "an id has no characters that cannot be seen"),
        ("x" * 10_000, "an id has 200 characters at most, and this one 10,000"),
    ],
)
def test_an_id_can_be_shown(name: str, words: str) -> None:
    with pytest.raises(PolicyError, match=words) as caught:
        parse_policy({"model": [{"source": "x", "id": name}]}, "p.toml")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["a/b", "a::b", "a[1]", " a"])
def test_an_id_must_fit_into_the_id_of_a_test(name: str) -> None:
    with pytest.raises(ValidationError, match="an id has no brackets"):
        ModelPolicy(source="x", id=name)


def test_a_model_s_expectation_goes_before_the_general_one() -> None:
    one, other = ModelPolicy(source="one", expect="none"), ModelPolicy(source="other")
    policy = Policy(models=(one, other), expect="any")
    assert policy.expectation(one) == "none"
    assert policy.expectation(other) == "any"
    assert policy.find_model("other") == other
    with pytest.raises(KeyError):
        policy.find_model("third")


def test_recipes_are_kept_in_their_own_notation_and_once() -> None:
    policy = QuantizationPolicy(recipes=("INT4/Tensor/Z9", "int8/row/symmetric"))
    assert policy.recipes == ("int4/tensor/z9", "int8/row/symmetric")
    assert [str(recipe) for recipe in policy.parsed()] == list(policy.recipes)
    with pytest.raises(ValidationError, match="a recipe is named twice"):
        QuantizationPolicy(recipes=("int4/row", "INT4/ROW"))


def test_default_limits_do_not_tie_down_the_recipes_also_when_read_back() -> None:
    policy = Policy(quantization=QuantizationPolicy(recipes=("int8/row",)))
    assert Policy.model_validate_json(policy.model_dump_json(by_alias=True), strict=True) == policy
