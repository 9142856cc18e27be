"""Methods made ready to quantize layers; those that quantize a whole model do it in a process of their own.

These libraries patch others when they are imported, change settings of torch, print, and want memory for a whole
model; none of that should meet the process that measures. It starts `python -m sw_audit.backends.models
FOLDER...`, with a job in each folder.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sw_audit.backends.costs import ProcessMeter
from sw_audit.backends.layers import LayerQuantizer
from sw_audit.backends.method import Method, Task, describe_failure, find_obstacle
from sw_audit.backends.registry import find_methods
from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.matrices import DecoderLayer, list_projections
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.policy.policy import ModelPolicy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.identity import find_version
from sw_audit.record.measurement import ComparedQuantizer, Quality

JOB, CALIBRATION, LAYERS, COSTS = "job.json", "calibration.safetensors", "layers.safetensors", "costs.json"

# What is needed is on this machine, so nothing is fetched. By default gptqmodel has too few threads for its own
# queues on a machine with fewer than three cores.
_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
    "GPTQMODEL_CPU_WORKERS": str(max(2, (os.cpu_count() or 1) // 2)),
}


@dataclass
class ModelQuantizer:
    """The layers of a model that another process quantized, and what that cost.

    Attributes:
        method: The method.
        folder: Holds what the process was given and what it wrote.
        bits: Bits stored for the decoder's matrices; `None` if that could not be counted.
        weights: Weights of these matrices.
        seconds: Time spent quantizing.
        peak_bytes: Most memory beyond what the open model takes; `None` where the system does not tell.
        failure: Why there is no result; `None` if there is.
    """

    method: Method
    folder: Path
    bits: int | None = None
    weights: int = 0
    left: int = 0
    seconds: float | None = None
    peak_bytes: int | None = None
    failure: str | None = None

    def __call__(self, layer: DecoderLayer) -> nn.Module:
        """Return a copy of a layer with the parameters that the library made."""
        if self.failure is not None:
            return layer.module
        projections = [module for _, module in list_projections(layer.module, layer.name)]
        # Empty shells take the projections' places in the copy, so that their weights are not copied first.
        shells = {id(module): copy.copy(module) for module in projections}
        for shell in shells.values():
            shell._parameters = dict(shell._parameters)
        copied: nn.Module = copy.deepcopy(layer.module, dict(shells))
        prefix, own = f"{layer.name}.", layer.module.state_dict()
        with safe_open(self.folder / LAYERS, "pt", device=str(next(layer.module.parameters()).device)) as file:
            names = {name.removeprefix(prefix): name for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
            tensors = {here: file.get_tensor(name) for here, name in names.items()}
        # Where the processor has bfloat16 a library may have changed the model to it.
        state = {name: tensor.to(own[name].dtype) if name in own else tensor for name, tensor in tensors.items()}
        copied.load_state_dict(state, strict=True, assign=True)
        return copied.requires_grad_(False)


def quantize_models(
    methods: Sequence[Method], policy: ModelPolicy, calibration: Tensor, seed: int, folder: Path
) -> tuple[ModelQuantizer, ...]:
    """Let a library quantize a whole model, once per method, in a process of its own.

    The methods are of one package, calibration is int64 [windows, tokens], and the folder must stay as long as the
    layers are used.
    """
    model = policy.model_dump(mode="json")
    if Path(policy.source).expanduser().exists():
        # The process is started in another folder.
        model["source"] = str(Path(policy.source).expanduser().resolve())
    folders = [(folder / method.name).resolve() for method in methods]
    for method, place in zip(methods, folders, strict=True):
        place.mkdir()
        job = {"method": method.name, "model": model, "seed": seed}
        (place / JOB).write_text(json.dumps(job), encoding="utf-8")
        save_file({"token_ids": calibration.contiguous()}, place / CALIBRATION)
    process = subprocess.run(  # noqa: S603 - this very interpreter, on a module of this package
        [sys.executable, "-m", "sw_audit.backends.models", *map(str, folders)],
        # Some write logs into the folder that they are started in.
        cwd=folder,
        env={**_SETTINGS, **os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return tuple(
        ModelQuantizer(method, place, **_read_costs(place, process))
        for method, place in zip(methods, folders, strict=True)
    )


def _read_costs(folder: Path, process: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    written = folder / COSTS
    if written.is_file():
        costs: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
        return costs
    lines = [line.strip() for line in process.stderr.decode(errors="replace").splitlines() if line.strip()]
    return {"failure": f"its process ended with {process.returncode}: {lines[-1] if lines else 'it said nothing'}"}


def run_job(folder: Path) -> None:
    """Do the job that a folder describes, and write the quantized layers and what they cost into it."""
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    (method,) = find_methods([job["method"]])
    policy = ModelPolicy.model_validate(job["model"])
    if method.train is None:
        raise ValueError(f"{method.name} quantizes layer by layer")
    saved = folder / "saved"
    saved.mkdir()
    checkpoint, source = open_checkpoint(policy), CheckpointFolder.require(policy)
    place = source.path if source.file is None else folder / "model"
    if source.file is not None:
        # Libraries that read the model anew know folders only.
        checkpoint.model.save_pretrained(place)
        checkpoint.tokenizer.save_pretrained(place)
    prefixes = tuple(f"{layer.name}." for layer in checkpoint.layers)
    task = Task(
        checkpoint=checkpoint,
        folder=place,
        calibration=load_file(folder / CALIBRATION)["token_ids"],
        seed=job["seed"],
        saved=saved,
        meter=ProcessMeter(),
    )
    torch.manual_seed(task.seed)
    known = set(checkpoint.model.state_dict())
    # Listed before the library takes the model apart; experts that are fused in one parameter are stored together.
    sizes = {matrix.parameter: matrix.tensor.numel() for layer in checkpoint.layers for matrix in layer.matrices}
    state = method.train(task)
    missing = sorted(name for name in known if name.startswith(prefixes) and name not in state)
    if missing:
        raise KeyError(f"{method.name} did not give back {missing[0]}")
    kept = {name: state[name].detach().cpu().contiguous() for name in known if name.startswith(prefixes)}
    save_file({name: tensor.clone() for name, tensor in kept.items()}, folder / LAYERS)
    costs = {
        "bits": count_saved_bits(saved, sizes),
        "weights": sum(sizes.values()),
        "seconds": task.meter.seconds,
        "peak_bytes": task.meter.peak_bytes,
    }
    (folder / COSTS).write_text(json.dumps(costs), encoding="utf-8")


def count_saved_bits(folder: Path, parameters: Iterable[str]) -> int | None:
    """Count the bits that a library wrote for some matrices; `None` if it wrote nothing for one of them.

    What stands for a weight in the safetensors files begins with its module's name.
    """
    sizes: dict[str, int] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                tensor = file.get_tensor(name)
                sizes[name] = 8 * tensor.numel() * tensor.element_size()
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


def main(folders: Sequence[str]) -> int:
    """Do jobs; a failure is one line in the costs, for the libraries fill the output with other things."""
    failed = 0
    for folder in folders:
        try:
            run_job(Path(folder))
        except Exception as error:  # libraries raise nearly everything
            failed = 1
            (Path(folder) / COSTS).write_text(json.dumps({"failure": describe_failure(error)}), encoding="utf-8")
        gc.collect()
    return failed


Quantizer: TypeAlias = LayerQuantizer | ModelQuantizer

NO_TEXT = "it learns from text, and none is left beside what is scored (give a longer one)"


def prepare_methods(
    methods: Sequence[Method],
    model: ModelPolicy,
    calibration: Tensor | None,
    seed: int,
    folder: Path,
    progress: Progress = ignore_progress,
) -> tuple[dict[str, Quantizer], dict[str, str]]:
    """Get methods ready; those that work on a whole model do their work now, one process per library.

    Calibration is int64 [windows, tokens], `None` without text; the folder must stay as long as the layers are
    used. Returned are, by the methods' names, what makes their layers, and for the others why nothing does.
    """
    obstacles = {method.name: obstacle for method in methods if (obstacle := find_obstacle(method)) is not None}
    ready = [method for method in methods if method.name not in obstacles]
    quantizers: dict[str, Quantizer] = {
        method.name: LayerQuantizer(method) for method in ready if not method.calibrates
    }
    learning = [method for method in ready if method.calibrates]
    packages = list(dict.fromkeys(method.package for method in learning))
    for number, package in enumerate(packages):
        own = [method for method in learning if method.package == package]
        if calibration is None:
            obstacles |= {method.name: NO_TEXT for method in own}
            continue
        progress(f"quantizing with {package}", number, len(packages))
        for quantizer in quantize_models(own, model, calibration, seed, folder):
            if quantizer.failure is None:
                quantizers[quantizer.method.name] = quantizer
            else:
                obstacles[quantizer.method.name] = quantizer.failure
    return quantizers, obstacles


def describe_method(
    method: Method, quality: Quality | None, quantizer: Quantizer | None, obstacle: str | None
) -> ComparedQuantizer:
    """Put what is known of a method into a row."""
    version = find_version(method.package)
    row = ComparedQuantizer(
        method=method.name,
        settings=method.settings,
        package=None if version is None else f"{method.package} {version}",
        what=method.what,
        because=obstacle,
    )
    if quantizer is None or quality is None:
        return row
    bits = quantizer.bits
    return row.model_copy(
        update={
            "arm": method.name,
            "quality": quality,
            "bits_per_weight": bits / quantizer.weights if bits is not None and quantizer.weights else None,
            "seconds": quantizer.seconds,
            "peak_bytes": quantizer.peak_bytes,
            "left_alone": quantizer.left,
        }
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
