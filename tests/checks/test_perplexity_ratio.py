from __future__ import annotations

import math

import pytest
from support.descent import MODULE, judge_descent, make_descent_evidence, make_descent_policy, make_text
from support.evidence import PARAMETER, make_protocol

from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.perplexity_ratio import PerplexityRatioLimits
from sw_audit.record.arm import DESCENDANT, PARENT, RESTORED_SCALARS, RESTORED_WEIGHTS, RestoredModule
from sw_audit.record.identity import CorpusIdentity
from sw_audit.record.verdict import Finding, Status, Verdict

CHECK = "perplexity-ratio"
OTHER = "model.layers.3.self_attn.v_proj"
BORROWED = RestoredModule(module=OTHER).name
KIND = "parent-kind/mlp.up_proj"
HARMED = {DESCENDANT.name: 8.0}


def find(verdict_findings: tuple[Finding, ...], part: str) -> Finding:
    return next(one for one in verdict_findings if part in one.label)


def with_corpus(name: str) -> CorpusIdentity:
    return CorpusIdentity(name=name, sha256="0" * 64, characters=9)


def test_a_descendant_within_the_margin_passes_with_its_paired_interval() -> None:
    verdict = judge_descent(CHECK, make_descent_evidence())
    assert verdict.status is Status.PASS
    assert verdict.observed == pytest.approx(1.01)
    assert verdict.low is not None
    assert verdict.high is not None
    assert verdict.low < 1.01 < verdict.high < 1.1
    assert verdict.limit == 1.1
    assert verdict.protocol == make_protocol().signature
    assert verdict.coordinates == (f"{PARAMETER}[37, 211]",)
    assert verdict.remedy is None
    assert verdict.paste == ()


@pytest.mark.parametrize(
    ("ratio", "status"), [(1.05, Status.PASS), (1.1, Status.INCONCLUSIVE), (1.2, Status.FAIL), (0.9, Status.PASS)]
)
def test_the_unfavourable_end_of_the_interval_decides(ratio: float, status: Status) -> None:
    assert judge_descent(CHECK, make_descent_evidence(make_text({DESCENDANT.name: ratio}))).status is status


def test_where_critical_scalars_recover_the_loss_they_are_what_to_put_back() -> None:
    def judge(weights: float, scalars: float) -> Verdict:
        ratios = {**HARMED, RESTORED_WEIGHTS.name: weights, RESTORED_SCALARS.name: scalars}
        return judge_descent(CHECK, make_descent_evidence(make_text(ratios)))

    # (ln 8 - ln 1.1) / ln 8 is 95.4 %.
    healed = judge(7.0, 1.1)
    assert (healed.remedy or "").startswith(
        "Put the parent's critical scalars back, those that the gate on them names"
    )
    assert "with the parent's critical scalars put back 95.4 % [" in healed.because
    assert healed.paste == ()
    assert "critical" not in (judge(7.0, 4.0).remedy or "")
    # Where the super weights will do, their matrix is what to leave out.
    located = judge(1.1, 1.1)
    assert (located.remedy or "").startswith(f"Leave {MODULE} out")
    assert "critical" not in located.because


def test_without_enough_windows_there_is_no_verdict() -> None:
    verdict = judge_descent(CHECK, make_descent_evidence(make_text({DESCENDANT.name: 9.0}, windows=3)))
    assert verdict.status is Status.INCONCLUSIVE
    assert "3 windows give no interval" in verdict.because


def test_a_descendant_that_is_not_finite_fails_whatever_its_parent_is() -> None:
    for ratios in ({DESCENDANT.name: None}, {PARENT.name: None, DESCENDANT.name: None}):
        for check in (CHECK, "kl-divergence", "top1-agreement", "stopwords-not-raised"):
            verdict = judge_descent(check, make_descent_evidence(make_text(ratios)))
            assert verdict.status is Status.FAIL, check
            assert verdict.observed is None
            assert "not finite" in verdict.because


def test_by_a_parent_that_is_not_finite_nothing_can_be_told() -> None:
    for check in (CHECK, "kl-divergence", "top1-agreement", "stopwords-not-raised"):
        verdict = judge_descent(check, make_descent_evidence(make_text({PARENT.name: None, DESCENDANT.name: 1.0})))
        assert verdict.status is Status.INCONCLUSIVE, check
        assert verdict.remedy is not None
        assert 'dtype = "float32"' in verdict.remedy or "stop_words" in verdict.remedy


def test_what_was_not_measured_or_under_another_protocol_is_inconclusive() -> None:
    text = make_text({DESCENDANT.name: 1.01})
    missing = text.model_copy(update={"measurements": text.measurements[:1]})
    elsewhere = text.model_copy(update={"protocol": make_protocol(seed=3)})
    for one in (missing, elsewhere):
        for check in (CHECK, "kl-divergence", "top1-agreement", "stopwords-not-raised"):
            verdict = judge_descent(check, make_descent_evidence(one))
            assert verdict.status is Status.INCONCLUSIVE, check
            assert verdict.remedy is not None
            assert verdict.remedy.startswith("Run the audit again")


def test_of_several_texts_the_worst_decides_and_all_are_told() -> None:
    code = make_protocol().model_copy(update={"corpus": with_corpus("code")})
    evidence = make_descent_evidence(
        make_text({DESCENDANT.name: 1.01}), make_text({DESCENDANT.name: 1.3}, protocol=code)
    )
    verdict = judge_descent(CHECK, evidence)
    assert verdict.status is Status.FAIL
    assert verdict.because.startswith("code: ")
    assert verdict.protocol == code.signature
    assert [(one.label, one.status) for one in verdict.findings] == [
        ("specimen", Status.PASS),
        ("code", Status.FAIL),
    ]


def test_two_texts_of_one_name_are_told_apart() -> None:
    other = make_protocol(seed=5)
    evidence = make_descent_evidence(
        make_text({DESCENDANT.name: 1.01}), make_text({DESCENDANT.name: 1.3}, protocol=other)
    )
    assert judge_descent(CHECK, evidence).because.startswith("specimen (2): ")


def test_the_share_that_the_super_weights_recover_is_the_ratio_of_the_lost_nats() -> None:
    # (ln 8 - ln 1.25) / (ln 8 - ln 1)
    share = (math.log(8) - math.log(1.25)) / math.log(8)
    verdict = judge_descent(CHECK, make_descent_evidence(make_text({**HARMED, RESTORED_WEIGHTS.name: 1.25})))
    found = find(verdict.findings, "super weight put back")
    assert found.observed == pytest.approx(share)
    assert found.status is Status.SKIPPED
    assert found.low is not None
    assert found.high is not None
    assert found.low < share < found.high
    assert verdict.status is Status.FAIL
    assert "with the parent's super weight put back 89.3 % [88." in verdict.because
    assert "times 1.25 is left" in verdict.because


def test_what_heals_is_advised_as_lines_that_can_be_pasted() -> None:
    evidence = make_descent_evidence(make_text({**HARMED, RESTORED_WEIGHTS.name: 1.25, BORROWED: 6.0}))
    verdict = judge_descent(CHECK, evidence)
    assert {one.where.partition(",")[0]: one.text for one in verdict.paste} == {
        "llm-compressor": f'ignore=["lm_head", "{MODULE}"]',
        "GPTQModel": r'dynamic={r"-:^model\.layers\.1\.mlp\.down_proj$": {}}',
        "bitsandbytes": f'llm_int8_skip_modules=["lm_head", "{MODULE}"]',
    }
    assert verdict.remedy is not None
    assert all(one.text in verdict.remedy for one in verdict.paste)
    assert "89.3 % [88." in verdict.remedy


def test_where_super_weights_recover_nothing_the_module_that_does_is_named() -> None:
    evidence = make_descent_evidence(make_text({**HARMED, RESTORED_WEIGHTS.name: 8.0, BORROWED: 1.3}))
    verdict = judge_descent(CHECK, evidence)
    assert f"with the parent's {OTHER} put back 87.4 % [8" in verdict.because
    assert OTHER in verdict.paste[0].text
    assert MODULE not in verdict.paste[0].text


def search(ratios: dict[str, float | None]) -> Verdict:
    """Judge a descendant with 8 times its parent's perplexity, of which parts were looked for that recover it."""
    evidence = make_descent_evidence(
        make_text({**HARMED, RESTORED_WEIGHTS.name: 6.5}),
        recovery=make_text({**HARMED, **ratios}, windows=8),
        modules=56,
    )
    return judge_descent(CHECK, evidence)


def test_where_one_part_recovers_little_it_is_said_that_this_alone_will_not_do() -> None:
    # (ln 8 - ln 6.5) / ln 8 is 10 %.
    verdict = judge_descent(CHECK, make_descent_evidence(make_text({**HARMED, RESTORED_WEIGHTS.name: 6.5})))
    assert verdict.paste == ()
    assert verdict.remedy is not None
    assert verdict.remedy.startswith("This alone will not do: with the parent's super weight alone ")
    assert "(times 6.5). Give weights more bits" in verdict.remedy
    assert "leave" not in verdict.remedy.lower()


def test_the_smallest_set_that_recovers_most_is_advised_with_the_share_of_each_step() -> None:
    both = f"{RESTORED_WEIGHTS.name} + {KIND}"
    verdict = search({RESTORED_WEIGHTS.name: 3.0, KIND: 7.0, "parent-layers": 1.0, both: 1.25})
    assert verdict.remedy is not None
    assert verdict.remedy.startswith(f"Leave {MODULE}, every mlp.up_proj out of quantization (llm-compressor: ")
    assert ") together: 89.3 % [" in verdict.remedy
    assert "; with the parent's super weight alone 47.2 % [" in verdict.remedy
    assert "(times 3), which will not do" in verdict.remedy
    assert [one.text for one in verdict.paste] == [
        rf'ignore=["lm_head", "{MODULE}", r"re:.*\.mlp\.up_proj$"]',
        r'dynamic={r"-:^model\.layers\.1\.mlp\.down_proj$": {}, r"-:^.*\.mlp\.up_proj$": {}}',
        f'llm_int8_skip_modules=["lm_head", "{MODULE}", ".mlp.up_proj"]',
    ]
    steps = verdict.because.split("; ")
    assert steps[2].startswith("with the parent's super weight put back 47.2 % [")
    assert steps[3].startswith("with every mlp.up_proj of the parent as well 89.3 % [")
    assert steps[3].endswith("(on specimen, 8 windows of 64 tokens).")
    labels = [finding.label for finding in verdict.findings if finding.text == "specimen, 8 windows of 64 tokens"]
    assert len(labels) == 4


def test_where_the_loss_is_spread_more_bits_are_advised_and_nothing_is_left_out() -> None:
    ratios = {RESTORED_WEIGHTS.name: 6.5, KIND: 6.0, "parent-kind/mlp.down_proj": 5.0, "parent-layers": 1.01}
    verdict = search({**ratios, f"parent-kind/mlp.down_proj + {KIND}": 4.0})
    assert verdict.paste == ()
    assert verdict.remedy is not None
    assert verdict.remedy.startswith(
        "The loss is spread over many modules, and leaving some out will not do: 33.3 % ["
    )
    assert "every mlp.down_proj of the parent and every mlp.up_proj of the parent put back" in verdict.remedy
    assert "16 of 56 modules" in verdict.remedy
    assert "with the parent's super weight alone 9.99 % [" in verdict.remedy
    assert ". Give weights more bits" in verdict.remedy
    assert "with all of the parent's decoder layers put back 99.5 % [" in verdict.because


def test_what_decoder_layers_do_not_bring_back_is_looked_for_outside_of_them() -> None:
    verdict = search({KIND: 7.9, "parent-layers": 7.8})
    assert verdict.paste == ()
    assert verdict.remedy is not None
    assert verdict.remedy.startswith("What is lost lies outside the decoder layers: 1.22 % [")


def test_where_no_part_recovers_anything_none_is_advised() -> None:
    evidence = make_descent_evidence(make_text({**HARMED, RESTORED_WEIGHTS.name: 8.0, BORROWED: 8.1}))
    verdict = judge_descent(CHECK, evidence)
    assert verdict.paste == ()
    assert verdict.remedy is not None
    assert "give weights more bits" in verdict.remedy.lower()


def test_of_an_infinite_loss_no_share_is_claimed_but_that_it_is_finite_again() -> None:
    evidence = make_descent_evidence(
        make_text({DESCENDANT.name: None, RESTORED_WEIGHTS.name: 1.02, BORROWED: 4.0})
    )
    verdict = judge_descent(CHECK, evidence)
    found = find(verdict.findings, "super weight put back")
    assert verdict.status is Status.FAIL
    assert found.observed is None
    assert "finite again, 1.02 times the parent's" in found.because
    assert verdict.paste[0].text == f'ignore=["lm_head", "{MODULE}"]'


def test_a_part_that_makes_it_infinite_recovers_nothing() -> None:
    evidence = make_descent_evidence(make_text({**HARMED, RESTORED_WEIGHTS.name: None}))
    verdict = judge_descent(CHECK, evidence)
    assert find(verdict.findings, "super weight put back").because.startswith("nothing is recovered")
    assert verdict.paste == ()


def test_without_a_certain_loss_there_is_nothing_to_recover() -> None:
    evidence = make_descent_evidence(make_text({DESCENDANT.name: 1.0, RESTORED_WEIGHTS.name: 1.0}))
    assert len(judge_descent(CHECK, evidence).findings) == 1


def test_a_pass_does_not_talk_of_what_could_be_recovered() -> None:
    evidence = make_descent_evidence(make_text({DESCENDANT.name: 1.04, RESTORED_WEIGHTS.name: 1.01}))
    verdict = judge_descent(CHECK, evidence)
    assert verdict.status is Status.PASS
    assert "put back" not in verdict.because


def test_the_margin_is_the_policys() -> None:
    checks = CheckLimits({"perplexity-ratio": PerplexityRatioLimits(maximum_ratio=10.0)})
    policy = make_descent_policy().model_copy(update={"checks": checks})
    assert judge_descent(CHECK, make_descent_evidence(make_text(HARMED)), policy).status is Status.PASS
