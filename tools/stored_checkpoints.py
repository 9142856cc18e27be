"""Makes the checkpoints in `tests/formats/data`: the specimen, quantized by llm-compressor and by auto-round.

Both want an older transformers than the tests run with, so this needs an environment of its own:

    python -m venv quantizers
    quantizers/bin/pip install llmcompressor==0.14.0.1 auto-round==0.15.1 torch==2.13.0
    quantizers/bin/python -m tools.stored_checkpoints
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "formats" / "data"
SPECIMEN = ROOT / "sw_audit" / "specimen" / "data"
STORIES = 64
AUTO_ROUND = {"gptq": "auto_gptq", "awq": "auto_awq", "round": "auto_round"}


def read_stories() -> list[list[int]]:
    """Read the token ids of the first stories of the specimen's corpus."""
    tokenizer = AutoTokenizer.from_pretrained(SPECIMEN / "specimen")
    lines = (SPECIMEN / "corpus.txt").read_text(encoding="utf-8").splitlines()[:STORIES]
    return [tokenizer(line)["input_ids"] for line in lines]


def keep(folder: Path, name: str) -> None:
    """Keep of a saved checkpoint what its tests need; the tokenizer is the specimen's."""
    (DATA / name).mkdir(exist_ok=True)
    for file in ("config.json", "model.safetensors"):
        shutil.copyfile(next(folder.rglob(file)), DATA / name / file)


def compress(scheme: str, modifier: Any, *, calibrate: bool) -> None:
    """Let llm-compressor quantize the specimen."""
    from datasets import Dataset
    from llmcompressor import oneshot

    model = AutoModelForCausalLM.from_pretrained(SPECIMEN / "specimen")
    settings: dict[str, Any] = {}
    if calibrate:
        rows = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in read_stories()]
        settings = {
            "dataset": Dataset.from_list(rows),
            "max_seq_length": 64,
            "num_calibration_samples": STORIES,
        }
    oneshot(model=model, recipe=modifier, **settings)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_compressed=True)
        keep(Path(folder), f"llm-compressor-{scheme}")


def make_with_llm_compressor() -> None:
    """Make one checkpoint per scheme."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier

    ignore = ["lm_head"]
    four = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=32)
    groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=four)}
    compress("W4A16", GPTQModifier(config_groups=groups, ignore=ignore), calibrate=True)
    for scheme in ("W8A8", "FP8", "NVFP4A16", "MXFP4A16"):
        modifier = QuantizationModifier(targets="Linear", scheme=scheme, ignore=ignore)
        compress(scheme, modifier, calibrate=scheme in ("W8A8", "FP8"))


def make_with_auto_round() -> None:
    """Make one checkpoint per format that auto-round writes."""
    from auto_round import AutoRound

    for name, form in AUTO_ROUND.items():
        model = AutoModelForCausalLM.from_pretrained(SPECIMEN / "specimen", dtype=torch.float16)
        quantizer = AutoRound(
            model,
            AutoTokenizer.from_pretrained(SPECIMEN / "specimen"),
            bits=4,
            group_size=32,
            sym=name != "awq",
            iters=0,
            nsamples=8,
            seqlen=64,
            dataset=[torch.tensor([ids]) for ids in read_stories()],
            device_map="cpu",
        )
        with tempfile.TemporaryDirectory() as folder:
            quantizer.quantize_and_save(folder, format=form)
            keep(Path(folder), f"auto-round-{name}")


if __name__ == "__main__":
    # Each of the two changes transformers when it is imported.
    which = sys.argv[1:] or ["llm-compressor", "auto-round"]
    if "llm-compressor" in which:
        make_with_llm_compressor()
    if "auto-round" in which:
        make_with_auto_round()
