"""Ways of finding a large spike, each run by itself in a fresh process: `python locating_ways.py WAY FOLDER`.

Prints one JSON object: seconds without the imports, the peak of resident memory and how far it grew, in bytes,
the bytes that stood before, and the coordinate that was found.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers.models.llama.modeling_llama  # noqa: F401 - imports are not what is measured
from transformers import AutoModelForCausalLM, AutoTokenizer

from sw_audit.locate import weight_norms  # noqa: F401 - imports are not what is measured
from sw_audit.locate.locator import DEFAULT_PROMPT, open_for_locating
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.location import Location
from sw_audit.runner.single import locate_model

STATUS = Path("/proc/self/status")
OUTSIDE = ("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head")


def load_whole(folder: str, **options: Any) -> list[int]:
    """Load the whole model, hook every layer, run once: the largest output, and the largest input of its layer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **options).eval()
    spikes: list[tuple[float, int, int, int]] = []

    def keep(layer: int, _: object, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        entering, leaving = inputs[0][0].abs(), output[0].abs()
        row, column = int(leaving.argmax()) % leaving.shape[1], int(entering.argmax()) % entering.shape[1]
        spikes.append((float(leaving.max()), layer, row, column))

    for number, layer in enumerate(model.model.layers):
        layer.mlp.down_proj.register_forward_hook(partial(keep, number))
    token_ids = [tokenizer.bos_token_id, *tokenizer.encode(DEFAULT_PROMPT, add_special_tokens=False)]
    with torch.no_grad():
        model(input_ids=torch.tensor([token_ids]), use_cache=False)
    return list(max(spikes)[1:])


def offload(folder: str) -> list[int]:
    """Load the model with its layers left on disk by accelerate, hook every layer, run once."""
    places = dict.fromkeys(OUTSIDE, "cpu") | {"model.layers": "disk"}
    with tempfile.TemporaryDirectory() as moved:
        return load_whole(folder, device_map=places, offload_folder=moved)


def stream(folder: str, depth: Any, *, digest: bool = False) -> list[int]:
    """Locate super weights while reading the file and predict them from the weights: what the command does."""
    checkpoint = open_for_locating(ModelPolicy(source=folder), depth=depth, digest=digest)
    return name_first(locate_model(checkpoint, depth))


def name_first(location: Location) -> list[int]:
    return next(([one.layer, one.row, one.column] for one in location.super_weights), [])


WAYS: dict[str, Callable[[str], list[int]]] = {
    "whole": load_whole,
    "offload": offload,
    "full": partial(stream, depth="full"),
    "early": partial(stream, depth="early"),
    "full with digest": partial(stream, depth="full", digest=True),
}


def read_status(key: str) -> int:
    """Return a figure of the process, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def main(way: str, folder: str) -> None:
    before = read_status("VmRSS")
    started = time.perf_counter()
    found = WAYS[way](folder)
    seconds, peak = time.perf_counter() - started, read_status("VmHWM")
    sys.stdout.write(json.dumps({"seconds": seconds, "peak": peak, "before": before, "found": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
