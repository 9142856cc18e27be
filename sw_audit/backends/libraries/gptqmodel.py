"""gptqmodel: GPTQ (Frantar et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sw_audit.backends.method import GROUP, Method, Task, register

_BATCH = 8


def train(task: Task) -> Mapping[str, Tensor]:
    """Quantize every projection of the decoder to 4 bits, symmetric, 64 weights of a row to a scale."""
    from gptqmodel import GPTQModel, QuantizeConfig

    config = QuantizeConfig(bits=4, group_size=GROUP, sym=True, desc_act=False)
    # It opens the files by itself, with its own way of loading layers.
    dtype = task.checkpoint.model.dtype
    opened = GPTQModel.load(str(task.folder), config, device=str(task.checkpoint.device), dtype=dtype)
    rows = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in task.calibration]
    with task.meter:
        opened.quantize(rows, batch_size=_BATCH, tokenizer=task.checkpoint.tokenizer)
    opened.save(str(task.saved))
    # Its own layers are on `meta` by now, so what it has written is opened, in half precision, as its layers ask.
    packed = GPTQModel.load(
        str(task.saved), device=str(task.checkpoint.device), backend="torch", dtype=torch.float16
    ).model
    # What it does not quantize it does not change.
    state = dict(task.checkpoint.model.state_dict())
    for name, module in packed.named_modules():
        if hasattr(module, "qweight"):
            # [in, out], as its kernels multiply
            state[f"{name}.weight"] = module.dequantize_weight().T.contiguous().to(dtype)
    return state


register(
    Method(
        "gptqmodel-gptq",
        "gptqmodel",
        "7.6",
        order=60,
        what="GPTQ",
        settings=f"4 bits, symmetric, groups of {GROUP}, no activation order",
        train=train,
    ),
)
