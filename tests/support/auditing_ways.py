"""Ways of evaluating a checkpoint, each by itself in a fresh process: `python auditing_ways.py WAY POLICY ...`.

Prints one JSON object. `audit POLICY` tells of a whole audit the seconds, the memory, the bytes of weights that
were read, the arms and the tokens of each, and of each stage seconds, bytes and
the peak so far. `plain POLICY ARMS TOKENS LENGTH`
loads the model once per arm with `from_pretrained`, takes the loss of so many tokens in sequences of a length, and
drops it. `arms POLICY ARMS` runs so many arms layer by layer and tells what is read. All tell the peak of resident
memory, and what stood before, in bytes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.llama import modeling_llama  # noqa: F401 - imports are not what is measured

from sw_audit.checkpoint.streaming import count_bytes_read, open_streaming
from sw_audit.corpus.windows import Windows
from sw_audit.measure.arms import measure_arms
from sw_audit.policy.reading import read_policy
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import BASELINE, Arm, Custom, Scale
from sw_audit.record.record import ModelResult
from sw_audit.runner.run import run

STATUS = Path("/proc/self/status")


def audit(policy: str) -> dict[str, Any]:
    """Audit the first model of a policy as the command does it, without a cache."""
    read = read_policy(Path(policy))
    stages: dict[str, list[float]] = {}
    last: list[Any] = ["", time.perf_counter(), count_bytes_read()]

    def note(stage: str, *_: int) -> None:
        now = [stage, time.perf_counter(), count_bytes_read()]
        taken = stages.setdefault(last[0], [0.0, 0, 0])
        taken[0] += now[1] - last[1]
        taken[1] += now[2] - last[2]
        taken[2] = read_status("VmHWM")
        last[:] = now

    started = time.perf_counter()
    [model] = run(read, progress=note).models
    note("")
    if not isinstance(model, ModelResult):
        raise SystemExit(str(model))
    return {
        "seconds": time.perf_counter() - started,
        "used": model.memory and model.memory.model_dump(),
        "arms": len(model.measurements),
        # What arms were scored on, on average: where verdicts settle early, that is not the whole text.
        "tokens": sum(sum(one.loss.tokens) for one in model.measurements) // len(model.measurements),
        "window": model.protocol.window,
        "located": [[one.layer, one.row, one.column] for one in model.location.super_weights],
        "stages": stages,
    }


def load_plainly(policy: str, arms: str, tokens: str, length: str) -> dict[str, Any]:
    """Load the model once per arm, evaluate the tokens, drop it; locating by its spikes costs nothing here."""
    source = read_policy(Path(policy)).models[0].source
    vocabulary = 0
    started = time.perf_counter()
    for _ in range(int(arms)):
        model = AutoModelForCausalLM.from_pretrained(source, dtype="auto").eval()
        vocabulary = model.config.vocab_size
        torch.manual_seed(0)
        with torch.no_grad():
            for _ in range(max(1, int(tokens) // int(length))):
                token_ids = torch.randint(3, vocabulary, (1, int(length)))
                logits = model(input_ids=token_ids, use_cache=False).logits
                logits[:, :-1].float().log_softmax(-1).gather(-1, token_ids[:, 1:, None])
        del model
    return {"seconds": time.perf_counter() - started}


def run_arms(policy: str, arms: str) -> dict[str, Any]:
    """Measure so many arms of a streamed model on two windows."""
    checkpoint = open_streaming(read_policy(Path(policy)).models[0])
    down = checkpoint.layers[0].down_projections[0]
    scaled = [
        Arm(
            purpose=Custom(label=str(column)),
            acts=(
                Scale(
                    addresses=(AddressGroup(parameter=down.parameter, rows=(1,), columns=(column,)),), factor=0.5
                ),
            ),
        )
        for column in range(int(arms) - 1)
    ]
    text = Windows(torch.randint(3, 50, (2, 32)), torch.ones(2, dtype=torch.long))
    before, started = count_bytes_read(), time.perf_counter()
    measure_arms(checkpoint, [BASELINE, *scaled], text, protocol="bench")
    return {"seconds": time.perf_counter() - started, "read": count_bytes_read() - before}


WAYS: dict[str, Callable[..., dict[str, Any]]] = {"audit": audit, "plain": load_plainly, "arms": run_arms}


def read_status(key: str) -> int:
    """Return a figure of the process, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def main(way: str, *given: str) -> None:
    before = read_status("VmRSS")
    told = WAYS[way](*given)
    sys.stdout.write(json.dumps({**told, "before": before, "peak": read_status("VmHWM")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
