"""auto-round: AWQ (Lin et al. 2024) and its own SignRound (Cheng et al. 2024), which it writes as GPTQ's format.

The file format says nothing of the algorithm: what SignRound learned and what GPTQ computed are packed alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from torch import Tensor

from sw_audit.backends.method import GROUP, Method, Task, register

_STEPS = 20
_BATCH = 4


def train(task: Task, algorithm: Literal["awq", "auto_round"]) -> Mapping[str, Tensor]:
    """Quantize every projection of the decoder to 4 bits, 64 weights of a row to a scale.

    Args:
        task: The model and the text.
        algorithm: Whose way; AWQ is asymmetric, SignRound symmetric, as their formats usually are.
    """
    from auto_round import AutoRound

    windows, length = task.calibration.shape
    learning: dict[str, Any] = {"iters": _STEPS} if algorithm == "auto_round" else {}
    quantizer = AutoRound(
        task.checkpoint.model,
        task.checkpoint.tokenizer,
        scheme="W4A16",
        alg_configs=algorithm,
        group_size=GROUP,
        sym=algorithm != "awq",
        dataset=[row[None] for row in task.calibration],
        nsamples=windows,
        seqlen=length,
        batch_size=_BATCH,
        device_map=str(task.checkpoint.device),
        seed=task.seed,
        # Compiling takes longer than all the rest on a small model.
        enable_torch_compile=False,
        **learning,
    )
    with task.meter:
        model, _ = quantizer.quantize()
    # Packing takes the model apart.
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quantizer.save_quantized(str(task.saved), format="auto_awq" if algorithm == "awq" else "auto_gptq")
    return state


register(
    Method(
        "auto-round-awq",
        "auto-round",
        "0.16",
        order=50,
        what="AWQ, as auto-round has it",
        settings=f"4 bits, asymmetric, groups of {GROUP}",
        train=partial(train, algorithm="awq"),
    ),
    Method(
        "auto-round-signround",
        "auto-round",
        "0.16",
        order=50,
        what="SignRound, written in GPTQ's format",
        settings=f"4 bits, symmetric, groups of {GROUP}, {_STEPS} steps of {_BATCH} windows",
        train=partial(train, algorithm="auto_round"),
    ),
)
