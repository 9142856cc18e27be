"""A record of more models than are told one by one: sound and broken descendants, one alone, one not audited."""

from __future__ import annotations

from functools import cache

from support.descent_pages import make_evidence, make_verdicts
from support.evidence import compose, make_none_evidence

from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.record.verdict import Status, Verdict

BROKEN = ("tuned-2", "tuned-5")


@cache
def make_many(text: str = "of a reason") -> Record:
    """Return the record of ten models: `tuned-0` to `tuned-7`, of which two fail, then `alone` and `gone`.

    `tuned-6` and `tuned-7` have another parent. `text` is why things are so, in everything that says why.
    """
    names = [f"tuned-{place}" for place in range(8)]
    results = [_make_descendant(name, text) for name in names]
    alone = make_none_evidence(windows=8).model_copy(update={"measurements": ()})
    doubt = Verdict(check="weights-intact", model="alone", status=Status.INCONCLUSIVE, because=text)
    alone = alone.model_copy(
        update={
            "model": alone.model.model_copy(update={"id": "alone"}),
            "protocol": results[0].protocol,
            "verdicts": (doubt,),
        }
    )
    models = tuple(ModelPolicy(source=f"models/{name}", id=name, parent="models/parent") for name in names)
    return compose(*results, alone, ModelFailure(model="gone", message=text), policy=Policy(models=models))


def _make_descendant(name: str, text: str) -> ModelResult:
    kept = name not in BROKEN
    result = make_evidence(name, kept=kept)
    assert result.descent is not None
    sides = ("at most", "at most", "at least")
    verdicts = [
        one.model_copy(update={"because": text, "waiver": None, "side": side})
        for one, side in zip(make_verdicts(name, kept=kept), sides, strict=True)
    ]
    place = int(name[-1])
    if kept:
        verdicts[1] = verdicts[1].model_copy(update={"observed": 1 + place / 1000})
    if name == "tuned-5":  # of the broken ones the better
        verdicts[2] = verdicts[2].model_copy(update={"status": Status.PASS})
    if place > 5:
        parent = result.descent.parent.model_copy(update={"id": "other-parent"})
        result = result.model_copy(update={"descent": result.descent.model_copy(update={"parent": parent})})
    return result.model_copy(update={"verdicts": tuple(verdicts)})
