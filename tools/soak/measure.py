"""Measure the windows that the simulation draws from, and write them to `data/`.

python -m tools.soak.measure NAME SOURCE TEXT WINDOWS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.corpus.choices import list_stop_words, read_choices, stop_word_ids
from sw_audit.corpus.text import read_corpus
from sw_audit.corpus.windows import window_corpus
from sw_audit.measure.arms import measure_arms
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy
from sw_audit.policy.recipe import parse_recipe
from sw_audit.record.address import AddressGroup, group_addresses
from sw_audit.record.arm import DESCENDANT, PARENT, Act, Arm, Custom, Quantize, RestoreActivation, Scale
from sw_audit.runner.single import locate_model

DATA = Path(__file__).parent / "data"
TOKENS = 64


def list_arms(pruned: tuple[AddressGroup, ...]) -> list[Arm]:
    """Return the model as it is and its damaged copies, mild ones and bad ones."""
    acts: dict[str, tuple[Act, ...]] = {
        "int8/group64": (Quantize(recipe=parse_recipe("int8/group64")),),
        "int4/group64": (Quantize(recipe=parse_recipe("int4/group64")),),
        "int4/group32/z3": (Quantize(recipe=parse_recipe("int4/group32/z3")),),
        "halved": (Scale(addresses=pruned, factor=0.5),),
        "zeroed": (Scale(addresses=pruned, factor=0.0),),
        "restored": (
            Scale(addresses=pruned, factor=0.0),
            RestoreActivation(addresses=pruned),
        ),
    }
    damaged = [Arm(purpose=Custom(label=name), acts=acts[name]) for name in acts]
    return [Arm(purpose=PARENT), Arm(purpose=DESCENDANT), *damaged]


def measure(source: str, text: str, windows: int) -> dict[str, Any]:
    """Measure a model in every arm beside itself as it is, in windows of 64 tokens."""
    policy = ModelPolicy(source=source, id="model")
    corpus = CorpusPolicy(source=text, window=TOKENS, windows=windows)
    checkpoint, intact = open_checkpoint(policy), open_checkpoint(policy)
    arms = list_arms(group_addresses(locate_model(checkpoint).addresses))
    items = read_choices(corpus) or ()
    cut = window_corpus(read_corpus(corpus), checkpoint.tokenizer, corpus, None, checkpoint.start.bos)
    found = measure_arms(
        checkpoint,
        arms,
        cut,
        protocol="soak",
        choices=items,
        choice_arms=[arm.purpose for arm in arms if arm.name in ("halved", "zeroed", "int4/group64")],
        stop_words=stop_word_ids(list_stop_words(corpus), checkpoint.tokenizer),
        parent=intact,
    )
    by_arm = {
        one.arm.name: {
            "nats": _shorten(one.loss.nats, 6),
            "divergence": _shorten(one.agreement.divergence, 5),
            "same_top": list(one.agreement.same_top),
            "stop_words": _shorten(one.stop_words.mass if one.stop_words else (), 5),
            "correct": "".join("01"[right] for right in one.choices.correct) if one.choices else "",
            "token_divergence": _shorten(one.agreement.token_divergence, 3)
            if one.arm.name in ("int4/group64", "int4/group32/z3")
            else [],
        }
        for one in found
        if one.arm.name != DESCENDANT.name
    }
    tokens, chance = list(found[0].loss.tokens), found[0].choices.chance if found[0].choices else None
    return {"source": Path(source).name, "text": text, "tokens": tokens, "chance": chance, "arms": by_arm}


def _shorten(numbers: tuple[float | None, ...], digits: int) -> list[float | None]:
    return [None if one is None else float(f"{one:.{digits}g}") for one in numbers]


if __name__ == "__main__":
    name, source, text, windows = sys.argv[1:]
    measured = measure(source, text, int(windows))
    (DATA / f"{name}.json").write_text(json.dumps(measured, separators=(",", ":")) + "\n", encoding="utf-8")
