"""Many models from few: measured results under other ids, their figures changed and judged anew."""

from __future__ import annotations

from random import Random

from sw_audit.checks.judging import judge_result
from sw_audit.policy.policy import Policy
from sw_audit.record.arm import DESCENDANT
from sw_audit.record.descent import ComparedText
from sw_audit.record.measurement import Measurement
from sw_audit.record.record import ModelResult, Record


def multiply(record: Record, count: int, seed: int = 0) -> Record:
    """Return a record of so many models: the first as it is, then descendants of the record, over and over.

    What a copy loses beyond its original is drawn; its verdicts are those of what it then has.
    """
    rng, (first, *_) = Random(seed), record.results  # noqa: S311 - figures of a test
    originals = [result for result in record.results if result.descent is not None]
    names = [f"tuned-{place:03d}" for place in range(1, count)]
    asked = {model.id: model for model in record.policy.models}
    chosen = [originals[place % len(originals)] for place in range(count - 1)]
    models = [asked[one.id].model_copy(update={"id": name}) for one, name in zip(chosen, names, strict=True)]
    policy = record.policy.model_copy(update={"models": (asked[first.id], *models)})
    copies = (_change(one, name, policy, rng) for one, name in zip(chosen, names, strict=True))
    return record.model_copy(update={"models": (first, *copies), "policy": policy})


def _change(result: ModelResult, name: str, policy: Policy, rng: Random) -> ModelResult:
    assert result.descent is not None
    loss, spread = rng.choice((0.0, 0.002, 0.02, 0.15)), rng.uniform(0.5, 3)
    texts = tuple(_change_text(text, name, loss, spread, rng) for text in result.descent.texts)
    weights = tuple(
        weight.model_copy(update={"value": weight.value and weight.value * rng.uniform(0.7, 1.1)})
        for weight in result.descent.super_weights
    )
    descent = result.descent.model_copy(update={"texts": texts, "super_weights": weights})
    model = result.model.model_copy(update={"id": name})
    changed = result.model_copy(update={"model": model, "descent": descent})
    return changed.model_copy(update={"verdicts": judge_result(changed, policy)})


def _change_text(text: ComparedText, name: str, loss: float, spread: float, rng: Random) -> ComparedText:
    def change(measured: Measurement) -> Measurement:
        if measured.arm.purpose != DESCENDANT:
            return measured.model_copy(update={"model": name})
        nats = tuple(
            None if held is None else held + loss * tokens * rng.uniform(0.8, 1.2)
            for held, tokens in zip(measured.loss.nats, measured.loss.tokens, strict=True)
        )
        apart = tuple(None if held is None else held * spread for held in measured.agreement.divergence)
        agreement = measured.agreement.model_copy(update={"divergence": apart})
        held = measured.loss.model_copy(update={"nats": nats})
        return measured.model_copy(update={"model": name, "loss": held, "agreement": agreement})

    return text.model_copy(update={"measurements": tuple(map(change, text.measurements))})
