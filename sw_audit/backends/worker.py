"""Quantizes whole models in a process of its own: `python -m sw_audit.backends.worker FOLDER...`.

These libraries patch others when they are imported, change settings of torch, print, and want memory for a whole
model; none of that should meet the process that measures.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sw_audit.backends.costs import ProcessMeter
from sw_audit.backends.method import Task, tell_failure
from sw_audit.backends.registry import find_methods
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix
from sw_audit.checkpoint.opening import open_checkpoint, require_folder
from sw_audit.policy.policy import ModelPolicy

JOB, CALIBRATION, LAYERS, COSTS = "job.json", "calibration.safetensors", "layers.safetensors", "costs.json"


def work(folder: Path) -> None:
    """Do the job that a folder describes, and write into it what became of the layers and what it cost."""
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    (method,) = find_methods([job["method"]])
    wanted = ModelPolicy.model_validate(job["model"])
    if method.train is None:
        raise ValueError(f"{method.name} quantizes layer by layer")
    saved = folder / "saved"
    saved.mkdir()
    checkpoint = open_checkpoint(wanted)
    prefixes = tuple(f"{layer.name}." for layer in checkpoint.layers)
    task = Task(
        checkpoint=checkpoint,
        folder=require_folder(wanted),
        calibration=load_file(folder / CALIBRATION)["token_ids"],
        seed=job["seed"],
        saved=saved,
        meter=ProcessMeter(),
    )
    torch.manual_seed(task.seed)
    known = set(checkpoint.model.state_dict())
    # The library takes the model apart, the list of what was in it is needed after.
    matrices = [(matrix.parameter, matrix.tensor.numel()) for matrix in _list_parameters(checkpoint.layers)]
    state = method.train(task)
    missing = sorted(name for name in known if name.startswith(prefixes) and name not in state)
    if missing:
        raise KeyError(f"{method.name} did not give back {missing[0]}")
    kept = {name: state[name].detach().cpu().contiguous() for name in known if name.startswith(prefixes)}
    save_file({name: tensor.clone() for name, tensor in kept.items()}, folder / LAYERS)
    costs = {
        "bits": count_saved_bits(saved, [name for name, _ in matrices]),
        "weights": sum(size for _, size in matrices),
        "seconds": task.meter.seconds,
        "peak_bytes": task.meter.peak_bytes,
    }
    (folder / COSTS).write_text(json.dumps(costs), encoding="utf-8")


def count_saved_bits(folder: Path, parameters: Iterable[str]) -> int | None:
    """Count the bits that a library wrote for some matrices; `None` if it wrote nothing for one of them.

    Args:
        folder: With safetensors files.
        parameters: Qualified names of the weights before; what stands for one begins with its module's name.
    """
    sizes: dict[str, int] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                tensor = file.get_tensor(name)
                sizes[name] = 8 * tensor.numel() * tensor.element_size()
    return _add_up(sizes, parameters)


def _add_up(sizes: Mapping[str, int], parameters: Iterable[str]) -> int | None:
    total = 0
    for parameter in parameters:
        module = parameter.removesuffix(".weight")
        own = [
            size for name, size in sizes.items() if name.rpartition(".")[0] == module and name != f"{module}.bias"
        ]
        if not own:
            return None
        total += sum(own)
    return total


def _list_parameters(layers: Iterable[DecoderLayer]) -> Iterator[Matrix]:
    """Yield one matrix per parameter: the experts that are fused in one are stored together."""
    seen: set[str] = set()
    for layer in layers:
        for matrix in layer.matrices:
            if matrix.parameter not in seen:
                seen.add(matrix.parameter)
                yield matrix


def main(folders: Sequence[str]) -> int:
    """Do jobs; what goes wrong is told in one line in the costs, for the output is full of other things."""
    failed = 0
    for folder in folders:
        try:
            work(Path(folder))
        except Exception as error:  # libraries raise nearly everything
            failed = 1
            (Path(folder) / COSTS).write_text(json.dumps({"failure": tell_failure(error)}), encoding="utf-8")
        gc.collect()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
