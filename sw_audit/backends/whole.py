"""Methods that work on a whole model: a process of its own quantizes, its layers come back one by one."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sw_audit.backends.method import Method
from sw_audit.checkpoint.matrices import DecoderLayer, list_projections
from sw_audit.policy.policy import ModelPolicy

# Nothing is looked up, nor asked: what is needed is on this machine. The last is for gptqmodel, which by default
# has too few threads for its own queues where a machine has less than three cores.
_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
    "GPTQMODEL_CPU_WORKERS": str(max(2, (os.cpu_count() or 1) // 2)),
}


@dataclass
class ModelQuantizer:
    """The layers of a model that another process has quantized, and what that cost.

    Attributes:
        method: The method.
        folder: What the process was given and has written.
        bits: Bits stored for the decoder's matrices; `None` if it could not be told which of them are which.
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
        """Return a copy of a layer with the parameters that the library has given it."""
        if self.failure is not None:
            return layer.module
        projections = [module for _, module in list_projections(layer.module, layer.name)]
        # Empty shells take the projections' places in the copy, so that their weights are not copied first.
        shells = {id(module): copy.copy(module) for module in projections}
        for shell in shells.values():
            shell._parameters = dict(shell._parameters)
        copied: nn.Module = copy.deepcopy(layer.module, dict(shells))
        prefix = f"{layer.name}."
        with safe_open(self.folder / "layers.safetensors", "pt", device=str(_find_device(layer))) as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - it is no dict
            state = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
        copied.load_state_dict(state, strict=True, assign=True)
        return copied.requires_grad_(False)


def quantize_models(
    methods: Sequence[Method], wanted: ModelPolicy, calibration: Tensor, seed: int, folder: Path
) -> tuple[ModelQuantizer, ...]:
    """Let a library quantize a whole model, once per method, in a process of its own.

    Args:
        methods: Methods of one package, each with a `train`.
        wanted: The model, as it was opened.
        calibration: Token ids, int64 [windows, tokens].
        seed: Of everything that is drawn.
        folder: An existing folder, which must stay as long as the layers are wanted.

    Returns:
        One entry per method.
    """
    model = wanted.model_dump(mode="json")
    if Path(wanted.source).expanduser().exists():
        # The process is started in another folder.
        model["source"] = str(Path(wanted.source).expanduser().resolve())
    folders = [(folder / method.name).resolve() for method in methods]
    for method, place in zip(methods, folders, strict=True):
        place.mkdir()
        job = {"method": method.name, "model": model, "seed": seed}
        (place / "job.json").write_text(json.dumps(job), encoding="utf-8")
        save_file({"token_ids": calibration.contiguous()}, place / "calibration.safetensors")
    done = subprocess.run(  # noqa: S603 - this very interpreter, on a module of this package
        [sys.executable, "-m", "sw_audit.backends.worker", *map(str, folders)],
        # Some write logs into the folder that they are started in.
        cwd=folder,
        env={**_SETTINGS, **os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return tuple(
        ModelQuantizer(method, place, **_read_costs(place, done))
        for method, place in zip(methods, folders, strict=True)
    )


def _read_costs(folder: Path, done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    written = folder / "costs.json"
    if written.is_file():
        found: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
        return found
    lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    return {"failure": f"its process ended with {done.returncode}: {lines[-1] if lines else 'it said nothing'}"}


def _find_device(layer: DecoderLayer) -> object:
    return next(layer.module.parameters()).device
