from __future__ import annotations

import shlex
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sw_audit_reports.reproduce import POLICY_FILE, write_command, write_policy

from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.prune_collapses import PruneCollapsesLimits
from sw_audit.checks.rtn_holdout_quality import RtnHoldoutQualityLimits
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy, Policy


def test_a_default_audit_is_repeated_by_naming_the_model_and_the_check() -> None:
    policy = Policy(models=(ModelPolicy(source="out/llama-w4"),))
    command = write_command("out/llama-w4", "prune-collapses", policy, "llama-w4")
    assert command == "sw-audit audit out/llama-w4 --check prune-collapses"


def test_what_the_policy_says_about_dtype_corpus_and_seed_is_in_the_command() -> None:
    model = ModelPolicy(source="m", id="w4", dtype="bfloat16", device="cuda:0", expect="none")
    policy = Policy(models=(model,), corpus=CorpusPolicy(source="my text.txt", windows=64), seed=3, index="i.toml")
    words = shlex.split(write_command("m", "stopword-shift", policy, "w4"))
    assert words[:3] == ["sw-audit", "audit", "w4=m"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options == {
        "--check": "stopword-shift",
        "--dtype": "bfloat16",
        "--device": "cuda:0",
        "--expect": "none",
        "--corpus": "my text.txt",
        "--windows": "64",
        "--seed": "3",
        "--index": "i.toml",
    }


def test_a_source_that_a_shell_would_run_stays_one_word() -> None:
    source = "models/$(rm -rf ~); echo"
    command = write_command(
        source, "prune-collapses", Policy(models=(ModelPolicy(source=source),)), "$(rm -rf ~); echo"
    )
    assert shlex.split(command)[2].endswith(source)
    assert len(shlex.split(command)) == 5


@pytest.mark.parametrize(
    "policy",
    [
        Policy(checks=CheckLimits({"prune-collapses": PruneCollapsesLimits(minimum_ratio=50)})),
        Policy(corpus=CorpusPolicy(window=128)),
        *(
            Policy(models=(ModelPolicy.model_validate({"source": "m", key: "x"}),))
            for key in ("revision", "index", "base", "gguf", "manifest")
        ),
    ],
)
def test_a_policy_that_options_cannot_express_is_named_as_a_file(policy: Policy) -> None:
    assert write_command("m", "prune-collapses", policy, "m").split()[2] == POLICY_FILE


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
ratios = st.floats(min_value=1e-3, max_value=1e6)


@given(texts, texts, st.lists(texts, min_size=1, max_size=3), ratios, st.booleans())
def test_the_policy_that_is_shown_reads_back_as_the_policy_that_was_audited(
    source: str, corpus: str, prompts: list[str], ratio: float, enabled: bool
) -> None:
    policy = Policy(
        models=(ModelPolicy(source=source, id="one"), ModelPolicy(source=source, id="two", allow_pickle=True)),
        corpus=CorpusPolicy(source=corpus, stop_words=("the", "a")),
        prompts=tuple(prompts),
        checks=CheckLimits(
            {
                "prune-collapses": PruneCollapsesLimits(minimum_ratio=ratio, enabled=enabled),
                "rtn-holdout-quality": RtnHoldoutQualityLimits(maximum_ratio={"int4/64x64": ratio}),
            }
        ),
    )
    assert Policy.model_validate(tomllib.loads(write_policy(policy))) == policy


def test_no_limits_at_all_read_back_as_no_limits_at_all() -> None:
    limits = RtnHoldoutQualityLimits(maximum_ratio={})
    policy = Policy(checks=CheckLimits({"rtn-holdout-quality": limits}))
    assert Policy.model_validate(tomllib.loads(write_policy(policy))) == policy


def test_a_descendant_is_repeated_beside_its_parent_which_another_model_of_the_policy_may_be() -> None:
    policy = Policy(
        models=(
            ModelPolicy(source="models/base"),
            ModelPolicy(source="models/w4", parent="base"),
            ModelPolicy(source="models/w8", parent="elsewhere/base"),
        ),
        compare="before",
    )
    commands = [write_command(f"models/{name}", "perplexity-ratio", policy, name) for name in ("w4", "w8", "base")]
    asked = "--check perplexity-ratio --compare before"
    assert commands == [
        f"sw-audit audit models/w4 {asked} --parent models/base",
        f"sw-audit audit models/w8 {asked} --parent elsewhere/base",
        f"sw-audit audit models/base {asked}",
    ]
