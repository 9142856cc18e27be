"""Ways of quantizing to 4 bits and back, each by itself in a fresh process: `quantizing_ways.py WAY WHAT THREADS`.

WHAT is `tensor` (4096 x 11008, bfloat16) or the folder of a checkpoint, whose decoder matrices are quantized layer
by layer. Prints one JSON object: seconds without the imports, weights, how far resident memory grew at most, in
bytes, the relative error, and a digest of what came out of the tensor.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sw_audit.arms.apply import applied_arm
from sw_audit.arms.matrices import SpareTensors
from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.policy.policy import ModelPolicy
from sw_audit.policy.recipe import parse_recipe
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.arm import Arm, Custom, Quantize

GROUP = 64
REPEATS = 3
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
Treatment = Callable[[Tensor], Tensor]


def clone() -> Treatment:
    return torch.clone


def round_plainly() -> Treatment:
    """Round as one would write it down: float32, vectorized, one new tensor per operation."""

    def work(weight: Tensor) -> Tensor:
        groups = weight.float().view(-1, GROUP)
        low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
        step = ((high - low) / 15).clamp(min=1e-20)
        codes = ((groups - low) / step).round().clamp(0, 15)
        return (codes * step + low).view_as(weight).to(weight.dtype)

    return work


def ours(notation: str) -> Callable[[], Treatment]:
    recipe = parse_recipe(notation)
    return lambda: lambda weight: round_to_nearest(weight, recipe)


def ours_in_place(notation: str) -> Callable[[], Treatment]:
    recipe, spare = parse_recipe(notation), SpareTensors()

    def work(weight: Tensor) -> Tensor:
        target = spare.take(weight)
        spare.give_back([target])
        return round_to_nearest(weight, recipe, out=target)

    return lambda: work


def bitsandbytes_nf4() -> Treatment:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    return lambda weight: dequantize_4bit(*quantize_4bit(weight, blocksize=GROUP, quant_type="nf4"))


def torchao_int4() -> Treatment:
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_

    config = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(GROUP))

    def work(weight: Tensor) -> Tensor:
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight = torch.nn.Parameter(weight, requires_grad=False)
        holder = torch.nn.Sequential(linear)
        quantize_(holder, config)
        values: Any = linear.weight
        return values.dequantize()  # type: ignore[no-any-return]

    return work


def hqq_int4(*, optimize: bool) -> Callable[[], Treatment]:
    def prepare() -> Treatment:
        from hqq.core.quantize import Quantizer

        def work(weight: Tensor) -> Tensor:
            codes, meta = Quantizer.quantize(
                weight, nbits=4, group_size=GROUP, axis=1, optimize=optimize, device="cpu"
            )
            return Quantizer.dequantize(codes, meta).to(weight.dtype)  # type: ignore[no-any-return]

        return work

    return prepare


def quanto_int4() -> Treatment:
    from optimum.quanto import MaxOptimizer, qint4, quantize_weight
    from optimum.quanto.tensor.grouped import ungroup

    def work(weight: Tensor) -> Tensor:
        scale, shift = MaxOptimizer()(weight, qint4, 0, GROUP)
        found = quantize_weight(weight, qint4, 0, scale, shift, GROUP)
        # Its own dequantize compiles an extension in C++ first, for minutes.
        packed = found._data._data
        codes = torch.cat([packed & 15, packed >> 4])[: found._data.shape[0]]
        values = ungroup(found._scale * codes - found._shift, axis=found.axis, orig_shape=found.shape)
        return values.contiguous()  # type: ignore[no-any-return]

    return work


WAYS: dict[str, Callable[[], Treatment]] = {
    "clone": clone,
    "plain": round_plainly,
    "ours": ours("int4/group64"),
    "ours in place": ours_in_place("int4/group64"),
    "ours symmetric": ours_in_place("int4/group64/symmetric"),
    "ours nf4": ours_in_place("nf4/run64"),
    "bitsandbytes": bitsandbytes_nf4,
    "torchao": torchao_int4,
    "hqq": hqq_int4(optimize=False),
    "hqq optimized": hqq_int4(optimize=True),
    "quanto": quanto_int4,
}
ACTS = {"ours in place": "int4/group64", "ours symmetric": "int4/group64/symmetric", "ours nf4": "nf4/run64"}


def measure_tensor(way: Treatment) -> dict[str, Any]:
    """Measure one tensor, the best of a few times."""
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(4096, 11008, generator=generator) * 0.02).bfloat16()
    way(weight[:64])
    seconds = []
    start_peak()
    before = read_status("VmRSS")
    for _ in range(REPEATS):
        started = time.perf_counter()
        result = way(weight)
        seconds.append(time.perf_counter() - started)
        if len(seconds) < REPEATS:
            del result
    grown = read_status("VmHWM") - before
    error = float((result.float() - weight.float()).norm() / weight.float().norm())
    digest = hashlib.sha256(result.contiguous().view(torch.int16).numpy()).hexdigest()
    return {
        "seconds": min(seconds),
        "weights": weight.numel(),
        "grown": grown,
        "error": error,
        "digest": digest,
    }


def measure_model(name: str, way: Treatment, folder: str) -> dict[str, Any]:
    """Measure a model once, one layer's results at a time; what is ours by the arm that does it in an audit."""
    layers = open_checkpoint(ModelPolicy(source=folder)).layers
    weights = sum(matrix.weight.numel() for layer in layers for matrix in layer.matrices)
    # Every page has been touched, and every way has been warmed up.
    norms = [float(matrix.weight.float().norm()) for layer in layers for matrix in layer.matrices]
    spare = SpareTensors()
    way(layers[0].matrices[0].weight[:64])
    start_peak()
    before = read_status("VmRSS")
    started = time.perf_counter()
    for layer in layers:
        if name in ACTS:
            arm = Arm(purpose=Custom(label=name), acts=(Quantize(recipe=parse_recipe(ACTS[name])),))
            with applied_arm(arm, layer, None, spare):
                pass
        else:
            quantize_layer(layer, way)
    seconds = time.perf_counter() - started
    largest = max(sum(matrix.weight.nbytes for matrix in layer.matrices) for layer in layers)
    return {
        "seconds": seconds,
        "weights": weights,
        "grown": read_status("VmHWM") - before,
        "largest_layer": largest,
        "matrices": len(norms),
    }


def quantize_layer(layer: DecoderLayer, way: Treatment) -> None:
    with ExitStack() as stack:
        for matrix in layer.matrices:
            stored = matrix.tensor.data
            stack.callback(setattr, matrix.tensor, "data", stored)
            matrix.tensor.data = way(stored)


def start_peak() -> None:
    """Give freed memory back and let the peak begin at what is resident now."""
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text("5")


def read_status(key: str) -> int:
    """Return a figure of the process, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def main(name: str, what: str, threads: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(threads))
    with torch.no_grad():
        way = WAYS[name]()
        measured = measure_tensor(way) if what == "tensor" else measure_model(name, way, what)
    sys.stdout.write("\n" + json.dumps(measured))


if __name__ == "__main__":
    main(*sys.argv[1:])
