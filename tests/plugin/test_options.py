from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from support.fake_runner import CHECKS
from support.runs import Inner

from sw_audit.policy.model_policy import BosRule, Dtype, Expectation
from sw_audit.policy.policy import Effort, Policy
from sw_audit.record.store import read_record
from sw_audit.runner.options import FORMATS, OPTIONS


@pytest.fixture
def all_places(inner: Inner) -> Inner:
    """A seed in each place that can set it: 1 in pyproject.toml, 2 in a policy file, 3 in the ini file."""
    inner.pytester.makepyprojecttoml("[tool.sw_audit]\nseed = 1\nconfidence = 0.8\n")
    inner.pytester.makefile(".toml", policy="seed = 2\n")
    inner.pytester.makeini("[pytest]\nsw_audit_seed = 3\n")
    return inner


ONE = ("-k", "prune-collapses")
POLICY_FILE = "--sw-audit-policy=policy.toml"


@pytest.mark.parametrize(
    ("ini", "options", "seed", "confidence"),
    [
        (True, (POLICY_FILE, "--sw-audit-seed=4"), 4, Policy().confidence),
        (True, (POLICY_FILE,), 3, Policy().confidence),
        (False, (POLICY_FILE,), 2, Policy().confidence),
        (False, (), 1, 0.8),
    ],
    ids=["command line", "ini file", "policy file in place of pyproject", "pyproject before the defaults"],
)
def test_the_nearest_place_that_sets_a_seed_counts(
    all_places: Inner, ini: bool, options: tuple[str, ...], seed: int, confidence: float
) -> None:
    if not ini:
        all_places.pytester.makeini("[pytest]\n")
    all_places.audit("llama-w4", options=(*ONE, *options))
    policy = all_places.policy()
    assert (policy["seed"], policy["confidence"]) == (seed, confidence)


def test_the_defaults_are_the_policys_own(inner: Inner) -> None:
    inner.audit("llama-w4", options=ONE)
    policy = inner.policy()
    assert policy.pop("model")[0]["source"] == "llama-w4"
    assert Policy.model_validate(policy) == Policy()


def test_options_go_before_a_collected_policy_file_too(inner: Inner, policy_file: Path) -> None:
    policy_file.write_text(f'seed = 5\nexpect = "any"\n{policy_file.read_text()}')
    inner.run(str(policy_file), *ONE, "--sw-audit-seed=6", "--sw-audit-dtype=bfloat16", "--sw-audit-windows=9")
    policy = inner.policy()
    assert (policy["seed"], policy["expect"], policy["corpus"]["windows"]) == (6, "any", 9)
    assert [model["dtype"] for model in policy["model"]] == ["bfloat16", "bfloat16"]


@pytest.mark.parametrize("form", ["ini", "toml"])
def test_every_setting_has_an_ini_key_of_its_type(
    inner: Inner, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(inner.pytester.path / "summary"))
    keys = {
        "model": ["llama-w4", "broken"],
        "check": ["prune-collapses"],
        "corpus": "specimen",
        "windows": 7,
        "dtype": "float32",
        "device": "cuda:1",
        "expect": "any",
        "effort": "quick",
        "bos": "never",
        "strict": True,
        "inconclusive": "warn",
        "seed": 8,
        "budget": "1h30min",
        "memory": "3GiB",
        "index": "mine.toml",
        "out": "elsewhere",
        "no_report": True,
        "save": "before",
        "unverified": True,
        "cache_dir": "remembered",
        "cache_size": "1GB",
        "cache_age": "3d",
        "no_cache": True,
        "summary": True,
        "no_redaction": True,
        **{name.replace("-", "_"): f"out.{name}" for name in FORMATS},
    }
    # Those that are left out change which checks run; they have tests of their own below.
    names = {setting.name.replace("-", "_") for setting in OPTIONS.values()}
    assert names == {*keys, "policy", "parent", "compare", "engine", "url", "kv_cache"}
    if form == "ini":
        texts = {
            key: "\n  ".join(["", *value]) if isinstance(value, list) else str(value)
            for key, value in keys.items()
        }
        inner.pytester.makeini("[pytest]\n" + "".join(f"sw_audit_{key} = {text}\n" for key, text in texts.items()))
    else:
        texts = (
            f"sw_audit_{key} = {str(value).lower() if value is True else repr(value)}"
            for key, value in keys.items()
        )
        inner.pytester.makefile(".toml", pytest="[pytest]\n" + "\n".join(texts))
    inner.run("--tb=no").assert_outcomes(passed=1, failed=1)
    policy = inner.policy("elsewhere/record.json")
    assert [model["id"] for model in policy["model"]] == ["llama-w4", "broken"]
    assert {model["dtype"] for model in policy["model"]} == {"float32"}
    assert {model["device"] for model in policy["model"]} == {"cuda:1"}
    assert (policy["corpus"]["windows"], policy["expect"], policy["inconclusive"], policy["seed"]) == (
        7,
        "any",
        "warn",
        8,
    )
    assert (policy["laws"], policy["effort"], policy["budget"]) == ("gate", "quick", 5400)
    assert Path(policy["index"]) == inner.pytester.path / "mine.toml"
    assert not (inner.pytester.path / "elsewhere" / "report.html").exists()
    assert all(f"as {name}" in (inner.pytester.path / f"out.{name}").read_text() for name in FORMATS)
    assert "as markdown" in (inner.pytester.path / "summary").read_text()


def test_an_ini_file_that_names_models_leaves_ones_own_tests_in(inner: Inner) -> None:
    inner.pytester.makeini("[pytest]\nsw_audit_model = llama-w4\n")
    inner.pytester.makepyfile("def test_mine(): pass\n")
    inner.run().assert_outcomes(passed=CHECKS + 1)


def test_paths_in_an_ini_file_are_taken_from_where_it_lies(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    inner.pytester.makeini("[pytest]\nsw_audit_model = w4=models/llama\nsw_audit_out = reports\n")
    (inner.pytester.path / "models" / "llama").mkdir(parents=True)
    folder = inner.pytester.mkdir("sub")
    monkeypatch.chdir(folder)
    inner.run(*ONE).assert_outcomes(passed=1, deselected=CHECKS - 1)
    source = inner.policy("reports/record.json")["model"][0]["source"]
    assert (folder / Path(source).expanduser()).resolve() == inner.pytester.path / "models" / "llama"


@pytest.mark.parametrize(
    ("ini", "told"),
    [
        ("sw_audit_dtype = int3", "sw_audit_dtype is 'int3'; write one of auto, float32, bfloat16, float16"),
        ("sw_audit_windows = many", "*many*"),
    ],
)
def test_a_word_that_an_ini_key_does_not_allow_is_a_usage_error(inner: Inner, ini: str, told: str) -> None:
    inner.pytester.makeini(f"[pytest]\n{ini}\n")
    run = inner.audit("llama-w4")
    assert run.ret == 4
    run.stderr.fnmatch_lines([f"ERROR: *{told}"])


def test_the_words_that_options_allow_are_those_of_the_policy() -> None:
    choices = {setting.name: setting.choices for setting in OPTIONS.values() if setting.choices}
    inconclusive = Policy.model_fields["inconclusive"].annotation
    assert choices == {
        "dtype": get_args(Dtype),
        "expect": get_args(Expectation),
        "bos": get_args(BosRule),
        "effort": get_args(Effort),
        "inconclusive": get_args(inconclusive),
    }


def test_a_models_id_can_be_chosen_and_two_of_one_name_need_that(inner: Inner) -> None:
    twice = inner.audit("a/llama", "b/llama")
    assert twice.ret == 4
    twice.stderr.fnmatch_lines(["ERROR: --sw-audit-model: two models are called 'llama'; *ID=SOURCE*"])
    inner.audit("a/llama", "w8=b/llama", options=ONE)
    assert [(one["id"], one["source"]) for one in inner.policy()["model"]] == [
        ("llama", "a/llama"),
        ("w8", "b/llama"),
    ]


def test_a_folder_whose_name_has_an_equals_sign_is_a_folder(inner: Inner) -> None:
    (inner.pytester.path / "bits=4").mkdir()
    inner.audit("bits=4", options=ONE)
    assert inner.policy()["model"][0]["source"] == "bits=4"


def test_a_model_of_the_policy_can_be_named_by_its_id(inner: Inner, policy_file: Path) -> None:
    policy_file.write_text('[[model]]\nsource = "x/y"\nid = "llama"\nrevision = "v1"\n[[model]]\nsource = "z"\n')
    inner.audit("llama", options=(*ONE, f"--sw-audit-policy={policy_file}"))
    models = inner.policy()["model"]
    assert [(one["source"], one["revision"]) for one in models] == [("x/y", "v1")]


def test_the_policys_own_models_are_audited_where_none_is_named(inner: Inner, policy_file: Path) -> None:
    run = inner.run(f"--sw-audit-policy={policy_file}", *ONE, "--tb=no", "-v")
    run.stdout.fnmatch_lines(["llama-w4::prune-collapses PASSED*", "broken::prune-collapses FAILED*"])


def test_the_models_of_pyproject_are_audited_when_asked_for(inner: Inner) -> None:
    inner.pytester.makepyprojecttoml('[[tool.sw_audit.model]]\nsource = "hub/llama-w4"\n')
    inner.run("--sw-audit", *ONE).assert_outcomes(passed=1, deselected=CHECKS - 1)


def test_asking_for_the_models_of_pyproject_where_there_are_none_is_told(inner: Inner) -> None:
    run = inner.run("--sw-audit")
    assert run.ret == 4
    run.stderr.fnmatch_lines(["ERROR: an audit under *pyproject.toml: it names no model; *"])


@pytest.mark.parametrize("text", ["[tool.sw_audit]\nsede = 1\n", "[tool]\nsw_audit = 3\n"])
def test_a_table_in_pyproject_that_means_nothing_is_one_line(inner: Inner, text: str) -> None:
    inner.pytester.makepyprojecttoml(text)
    inner.pytester.makeini("[pytest]\n")
    run = inner.audit("llama-w4")
    assert run.ret == 4
    assert len([line for line in run.errlines if line]) == 1
    run.stderr.fnmatch_lines(["ERROR: *[[]tool.sw_audit[]]*"])


def test_paths_in_a_policy_file_are_taken_from_where_it_lies(inner: Inner) -> None:
    folder = inner.pytester.mkdir("deep")
    (folder / "models" / "llama").mkdir(parents=True)
    (folder / "text.txt").write_text("words")
    (folder / "audit.swaudit.toml").write_text(
        '[[model]]\nsource = "models/llama"\nindex = "./models"\n[[model]]\nsource = "./lost"\nindex = "none"\n'
        '[[model]]\nsource = "owner/name"\nindex = "huggyllama/llama-7b"\n'
        '[corpus]\nsource = "text.txt"\n'
    )
    index = folder / "audit.swaudit.toml"
    index.write_text(f'index = "mine.toml"\n{index.read_text()}')
    inner.run("deep/audit.swaudit.toml", *ONE)
    policy = inner.policy()
    assert [model["source"] for model in policy["model"]] == ["deep/models/llama", "./deep/lost", "owner/name"]
    assert [model["index"] for model in policy["model"]] == ["deep/models", "none", "huggyllama/llama-7b"]
    assert (policy["corpus"]["source"], policy["index"]) == ("deep/text.txt", "deep/mine.toml")


BASELINES = Path(".sw-audit/baselines")


def kept(inner: Inner, name: str) -> Path:
    return inner.pytester.path / BASELINES / f"{name}.json"


def test_a_record_is_kept_under_a_name_also_where_a_check_fails(inner: Inner) -> None:
    for model, code in (("llama-w4", 0), ("broken", 1)):
        run = inner.audit(model, options=(*ONE, f"--sw-audit-save={model}"))
        assert run.ret == code
        run.stdout.fnmatch_lines([f"baseline: .sw-audit/baselines/{model}.json"])
        record = inner.pytester.path / "sw-audit-out/record.json"
        assert kept(inner, model).read_text(encoding="utf-8") == record.read_text(encoding="utf-8")
    inner.audit("gone", options=("--sw-audit-save=gone",))
    assert not kept(inner, "gone").exists()


def test_of_several_policies_each_is_kept_under_its_own_name_too(inner: Inner, policy_file: Path) -> None:
    other = policy_file.with_name("other.swaudit.toml")
    other.write_text(policy_file.read_text(encoding="utf-8"), encoding="utf-8")
    inner.run(str(policy_file), str(other), *ONE, "--sw-audit-save=before")
    names = sorted(path.name for path in (inner.pytester.path / BASELINES).iterdir())
    assert names == ["before-audit.json", "before-other.json"]


@pytest.mark.slow
def test_workers_keep_one_baseline_together(separate: Inner) -> None:
    separate.audit("llama-w4", "llama-w8", options=(*ONE, "-n2", "--sw-audit-save=before"))
    assert [one.id for one in read_record(kept(separate, "before")).models] == ["llama-w4", "llama-w8"]


@pytest.mark.parametrize("name", ["a/b", "before.json", ".."])
def test_a_name_that_is_none_is_refused_before_anything_is_measured(inner: Inner, name: str) -> None:
    run = inner.audit("llama-w4", options=(f"--sw-audit-save={name}",))
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["ERROR: baseline *: this is no name; *"])
    assert inner.noted("measure") == []


def test_what_is_compared_with_stands_in_the_policy_and_adds_its_checks(inner: Inner) -> None:
    inner.audit("llama-w4", options=("--sw-audit-compare=before",))
    assert inner.policy()["compare"] == "before"
    checks = {check for _, check in inner.verdicts()}
    assert {"super-weight-unmoved", "super-activation-unmoved", "quality-not-worse"} <= checks


def test_a_baseline_in_an_ini_file_stays_a_name_whatever_lies_beside_it(inner: Inner) -> None:
    inner.pytester.makeini("[pytest]\nsw_audit_compare = before\n")
    inner.pytester.mkdir("before")
    inner.audit("llama-w4", options=ONE)
    assert inner.policy()["compare"] == "before"


def test_a_record_in_an_ini_file_is_taken_from_where_that_lies(
    inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner.pytester.makeini("[pytest]\nsw_audit_compare = kept/record.json\n")
    inner.pytester.mkdir("kept").joinpath("record.json").write_text("{}")
    folder = inner.pytester.mkdir("sub")
    monkeypatch.chdir(folder)
    inner.audit("llama-w4", options=ONE)
    compared = inner.policy("sub/sw-audit-out/record.json")["compare"]
    assert (folder / Path(compared).expanduser()).resolve() == inner.pytester.path / "kept/record.json"


def test_a_parent_is_given_to_every_model_but_itself(inner: Inner) -> None:
    inner.audit("llama-w4", "llama-base", options=("--sw-audit-parent=llama-base",))
    models = inner.policy()["model"]
    assert {one["id"]: one["parent"] for one in models} == {"llama-w4": "llama-base", "llama-base": None}


def test_a_cache_that_was_named_and_cannot_be_is_refused_before_anything_is_measured(inner: Inner) -> None:
    (inner.pytester.path / "file").write_text("")
    run = inner.audit("llama-w4", options=("--sw-audit-cache-dir=file/cache",))
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["ERROR: cache *: it cannot be written there; name another folder, or --no-cache"])
    assert inner.noted("measure") == []
