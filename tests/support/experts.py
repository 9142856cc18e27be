"""Mixtures of experts whose routers and experts really do something, fused and apart."""

from __future__ import annotations

from typing import Any

import torch
from support.checkpoints import Family, make_model
from torch import Tensor, nn

from sw_audit.checkpoint.matrices import DownProjection

W4A8: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*gate$"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"},
        }
    },
}
"""What llm-compressor writes: experts in 4 bits, and a scale learned for what enters each."""


def make_experts(family: Family, implementation: str | None = None, **settings: Any) -> Any:
    """Make a model of a family whose routers decide by the token, and whose experts all differ.

    Args:
        family: The family.
        implementation: How transformers multiplies by the experts: eager, batched_mm or grouped_mm.
        **settings: Of its configuration.
    """
    model = make_model(family, **settings)
    if implementation is not None:
        model.set_experts_implementation(implementation)
    torch.manual_seed(11)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 3:
            nn.init.normal_(parameter, std=0.2)
        elif "bias" in name:
            nn.init.normal_(parameter, std=0.1)
        elif name.endswith(("gate.weight", "router.weight")):
            nn.init.normal_(parameter, std=0.4)
    return model


def find_router(block: nn.Module, experts: int) -> Any:
    """Find the module beside the experts that decides where a token goes, [experts, hidden]."""
    for module in block.children():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 2 and len(weight) == experts:
            return module
    raise LookupError("no router")


def find_block(layer: nn.Module, down: DownProjection) -> nn.Module:
    """Find the child of a layer that holds a down-projection."""
    return next(child for child in layer.children() if down.module in set(child.modules()))


class Expert(nn.Module):
    """One expert of its own, with the weights of one of Mixtral's fused ones."""

    def __init__(self, gate_up: Tensor, down: Tensor) -> None:
        super().__init__()
        inner = down.shape[1]
        self.w1 = nn.Linear(down.shape[0], inner, bias=False)
        self.w3 = nn.Linear(down.shape[0], inner, bias=False)
        self.w2 = nn.Linear(inner, down.shape[0], bias=False)
        for linear, weight in ((self.w1, gate_up[:inner]), (self.w3, gate_up[inner:]), (self.w2, down)):
            linear.weight.data = weight.detach().clone()

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Gate, up and down, as Mixtral does."""
        given: Tensor = self.w2(nn.functional.silu(self.w1(hidden_states)) * self.w3(hidden_states))
        return given


class ExpertsApart(nn.Module):
    """Mixtral's block with a list of experts, as transformers had it before it fused them."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.gate = block.gate
        fused = block.experts
        self.experts = nn.ModuleList(
            Expert(*pair) for pair in zip(fused.gate_up_proj, fused.down_proj, strict=True)
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Send each token to its experts and add up what they say."""
        flat = hidden_states.reshape(-1, hidden_states.shape[-1])
        _, weights, index = self.gate(flat)
        total = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            tokens, chosen = (index == number).nonzero(as_tuple=True)
            if len(tokens):
                total.index_add_(0, tokens, expert(flat[tokens]) * weights[tokens, chosen, None])
        return total.reshape(hidden_states.shape)


def take_experts_apart_(model: Any) -> None:
    """Give a Mixtral a list of experts in each layer in place of the fused ones; it computes the same."""
    for layer in model.model.layers:
        layer.mlp = ExpertsApart(layer.mlp)


def pack_expert_(tensors: dict[str, Tensor], name: str) -> None:
    """Pack one expert's matrix into 4 bits, a scale per row, as llm-compressor stores it."""
    weight = tensors.pop(f"{name}.weight")
    scale = weight.abs().amax(dim=1, keepdim=True) / 7
    codes = (weight / scale).round().to(torch.int32) + 8
    shifts = torch.arange(8, dtype=torch.int32) * 4
    tensors[f"{name}.weight_packed"] = (codes.reshape(len(codes), -1, 8) << shifts).sum(dim=2).to(torch.int32)
    tensors[f"{name}.weight_scale"] = scale
    tensors[f"{name}.weight_shape"] = torch.tensor(weight.shape)
    tensors[f"{name}.input_scale"] = torch.tensor([0.02])
