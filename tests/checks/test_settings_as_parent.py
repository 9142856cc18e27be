from __future__ import annotations

from support.evidence import make_evidence, make_policy

from sw_audit.checks.context import StaticContext
from sw_audit.checks.settings_as_parent import settings_as_parent
from sw_audit.policy.policy import DescentPolicy
from sw_audit.record.files import ChangedSetting, ComparedFiles, ComparedSettings
from sw_audit.record.verdict import Status, Verdict

HOT = ChangedSetting(key="generation_config.temperature", parent="1.0", value="0.7", effect="sampling")
CUT = ChangedSetting(
    key="config.max_position_embeddings",
    parent="512",
    value="64",
    effect="computation",
    note="no window is longer",
)
IDLE = ChangedSetting(key="config.use_cache", parent="true", value=None, effect="none")
NOTE = "The audit puts BOS before every text, and this model's files do not."


def judge(*changed: ChangedSetting, may_differ: tuple[str, ...] = (), notes: tuple[str, ...] = ()) -> Verdict:
    settings = ComparedSettings(compared=75, changed=changed, texts=24, conversations=8, notes=notes)
    evidence = make_evidence().model_copy(update={"files": ComparedFiles(settings=settings)})
    policy = make_policy().model_copy(update={"descent": DescentPolicy(may_differ=may_differ)})
    return settings_as_parent.rule(StaticContext(settings_as_parent, evidence, policy))


def test_where_nothing_differs_it_passes_and_says_what_was_compared() -> None:
    verdict = judge(notes=(NOTE,))
    assert (verdict.status, verdict.observed, verdict.limit, verdict.findings) == (Status.PASS, 0, 0, ())
    assert verdict.because == f"75 settings and 24 texts, 8 conversations were compared. {NOTE}"


def test_what_counts_fails_with_both_values_and_what_to_paste() -> None:
    verdict = judge(HOT, CUT, IDLE)
    assert (verdict.status, verdict.observed) == (Status.FAIL, 2)
    assert verdict.because == (
        "generation_config.temperature decides how tokens are drawn: 0.7 here, 1.0 in the parent (and 1 more)."
    )
    assert [(finding.label, finding.status, finding.because) for finding in verdict.findings] == [
        ("generation_config.temperature", Status.FAIL, "0.7 here, 1.0 in the parent."),
        ("config.max_position_embeddings", Status.FAIL, "64 here, 512 in the parent: no window is longer."),
        ("config.use_cache", Status.SKIPPED, "not set here, true in the parent."),
    ]
    [paste] = verdict.paste
    assert (
        paste.text == '[descent]\nmay_differ = ["generation_config.temperature", "config.max_position_embeddings"]'
    )


def test_what_the_policy_names_may_differ_and_a_pattern_that_names_nothing_is_told() -> None:
    verdict = judge(HOT, may_differ=("generation_config.*", "config.rope*"))
    assert (verdict.status, verdict.observed, verdict.paste) == (Status.PASS, 0, ())
    assert verdict.because == (
        "75 settings and 24 texts, 8 conversations were compared; 1 differ, those that count by the policy's "
        "leave. Nothing that differs is called 'config.rope*', which may_differ names."
    )
    assert verdict.findings[0].because == "0.7 here, 1.0 in the parent; the policy lets it differ."
    assert judge(HOT, CUT, may_differ=("generation_config.*",)).status is Status.FAIL


def test_settings_that_nobody_compared_pass_nothing() -> None:
    context = StaticContext(settings_as_parent, make_evidence(), make_policy())
    assert settings_as_parent.rule(context).status is Status.INCONCLUSIVE
