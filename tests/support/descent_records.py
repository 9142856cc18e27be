"""The record of made-up descendants, its verdicts written by hand: what the report shows is known to a letter."""

from __future__ import annotations

from datetime import date

from support.descent_pages import MODULE, OTHER_MODULE, make_evidence, make_flawed
from support.evidence import SUPER_WEIGHT, make_protocol

from sw_audit.policy.model_policy import Waiver
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.arm import DESCENDANT, RESTORED_WEIGHTS, RestoredModule
from sw_audit.record.identity import Environment, Tool
from sw_audit.record.record import ModelFailure, Record
from sw_audit.record.verdict import Finding, Paste, Status, Verdict

_PROTOCOL = make_protocol()
WAIVER = Waiver(
    check="top1-agreement", model="broken", until=date(2027, 3, 31), owner="Ada", reason="the old kernel goes then"
)
REFUSED = "model models/stripped: codes without config"
SKIPPED = "The weights are not intact."


def make_verdicts(name: str, *, kept: bool) -> tuple[Verdict, ...]:
    """Return what is concluded of a descendant, in the checks' order."""
    status = Status.PASS if kept else Status.FAIL
    ratio, low, high = (1.016, 1.011, 1.022) if kept else (118.4, 112.9, 124.7)
    held = Finding(
        label="specimen",
        status=status,
        observed=ratio,
        low=low,
        high=high,
        limit=1.1,
        arm=DESCENDANT.name,
        text="specimen",
        because="times the parent's",
    )
    shares = [
        Finding(
            label=f"specimen, the parent's {part} put back",
            status=Status.SKIPPED,
            observed=share,
            low=share - 0.004,
            high=share + 0.003,
            arm=arm.name,
            text="specimen",
            because="recovered",
        )
        for part, arm, share in (
            ("super weight", RESTORED_WEIGHTS, 0.9956),
            (OTHER_MODULE, RestoredModule(module=OTHER_MODULE), 0.0013),
        )
    ]
    error = 0.0 if kept else 0.98
    ignore = Paste(where="llm-compressor, in the modifier", text=f'ignore=["lm_head", "{MODULE}"]')
    return (
        Verdict(
            check="super-weight-retained",
            model=name,
            status=status,
            observed=error,
            limit=0.25,
            quantity="largest relative error",
            because=f"{SUPER_WEIGHT.address}: its error is {error}",
            remedy=None if kept else f"Leave `{MODULE}` out of quantization.",
            paste=() if kept else (ignore,),
        ),
        Verdict(
            check="perplexity-ratio",
            model=name,
            status=status,
            observed=ratio,
            low=low,
            high=high,
            limit=1.1,
            quantity="perplexity ratio to the parent",
            because="specimen: what was measured",
            protocol=_PROTOCOL.signature,
            findings=(held, *(() if kept else shares)),
        ),
        Verdict(
            check="top1-agreement",
            model=name,
            status=status,
            observed=0.97 if kept else 0.04,
            limit=0.9,
            quantity="share of tokens",
            because="specimen: where both agree",
            waiver=None if kept else WAIVER,
        ),
    )


def make_descent_record() -> Record:
    """Return the record of an audit of a sound descendant, a broken one, and one whose files are broken."""
    names = ("sound", "broken", "stripped")
    policy = Policy(
        models=tuple(ModelPolicy(source=f"models/{name}", id=name, parent="models/parent") for name in names),
        waivers=(WAIVER,),
    )
    refused = (
        Verdict(
            check="weights-intact",
            model="stripped",
            status=Status.FAIL,
            observed=42,
            limit=0,
            quantity="serious flaws",
            because="42 serious flaws",
            remedy="put the quantization_config back into config.json",
        ),
        Verdict(
            check="perplexity-ratio",
            model="stripped",
            status=Status.SKIPPED,
            because=SKIPPED,
        ),
    )
    descendants = tuple(
        make_evidence(name, kept=kept).model_copy(update={"verdicts": tuple(make_verdicts(name, kept=kept))})
        for name, kept in (("sound", True), ("broken", False))
    )
    message = "model models/stripped: codes without config"
    failure = ModelFailure(model="stripped", message=message, weights=make_flawed(), verdicts=refused)
    return Record(
        models=(*descendants, failure),
        tool=Tool(version="0.1.0"),
        created="2026-01-02T03:04:05+00:00",
        environment=Environment(python="3.11.9", platform="Linux", threads=2, packages={"torch": "2.13.0"}),
        policy=policy,
    )
