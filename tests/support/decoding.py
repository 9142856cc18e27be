"""What the codes of each format stand for, worked out from the bytes of the files alone."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from support.quantizing import unpack_fp8
from torch import Tensor

# E2M1: the eight magnitudes of a 4-bit float, then the same with a minus sign.
_E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
E2M1 = torch.cat([_E2M1, -_E2M1])
_BITS_IN_INT32 = torch.arange(0, 32, 4, dtype=torch.int32)
# In which order AWQ packs eight neighbours into 32 bits.
_AWQ_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]


def decode(folder: Path, module: str) -> Tensor:
    """Return the matrix that a module's codes stand for, float32 [out, in].

    Args:
        folder: A checkpoint that is quantized.
        module: Qualified name of the module.
    """
    gguf = next(folder.glob("*.gguf"), None)
    if gguf is not None:
        return _decode_gguf(gguf, module)
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    parts = {
        name.removeprefix(f"{module}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{module}.")
    }
    match config["quantization_config"]["quant_method"]:
        case "bitsandbytes":
            return _decode_int8(parts) if "SCB" in parts else _decode_4bit(parts, (64, 192))
        case "torchao":
            return _times(parts["_weight_qdata"].float(), parts["_weight_scale"])
        case "compressed-tensors":
            return _decode_compressed(parts)
        case "fp8":
            return unpack_fp8(tensors, f"{module}.weight")
        case "gptq" | "auto-round":
            return _decode_gptq(parts)
        case "awq":
            return _decode_awq(parts)
    raise ValueError(config["quantization_config"])


def _times(codes: Tensor, scales: Tensor) -> Tensor:
    """Multiply codes [out, in] by scales [out, groups] or a single one."""
    scales = scales.float().reshape(-1, scales.shape[-1] if scales.ndim > 1 else 1)
    return codes * scales.repeat_interleave(codes.shape[1] // scales.shape[1], 1)


def _decode_int8(parts: dict[str, Tensor]) -> Tensor:
    return parts["weight"].float() * parts["SCB"][:, None] / 127


def _decode_4bit(parts: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
    state = next(tensor for name, tensor in parts.items() if "quant_state" in name)
    told = json.loads(bytes(state.tolist()))
    packed = parts["weight"].flatten()
    codes = torch.stack([packed >> 4, packed & 15], 1).flatten().long()
    largest = parts["weight.absmax"].float()
    if "weight.nested_absmax" in parts:
        outer = parts["weight.nested_absmax"].repeat_interleave(told["nested_blocksize"])[: len(largest)]
        largest = parts["weight.nested_quant_map"][largest.long()] * outer + told["nested_offset"]
    return (parts["weight.quant_map"][codes] * largest.repeat_interleave(told["blocksize"])).view(shape)


def _decode_compressed(parts: dict[str, Tensor]) -> Tensor:
    scales = parts["weight_scale"]
    if "weight_packed" not in parts:
        return _times(parts["weight"].float(), scales)
    packed = parts["weight_packed"]
    if packed.dtype == torch.int32:
        codes = (packed[:, :, None] >> _BITS_IN_INT32) & 15
        return _times((codes - 8).flatten(1).float(), scales)
    codes = torch.stack([packed & 15, packed >> 4], 2).flatten(1).long()
    if "weight_global_scale" in parts:
        scales = scales.float() / parts["weight_global_scale"]
    else:
        scales = torch.exp2(scales.float() - 127)
    return _times(E2M1[codes], scales)


def _decode_gptq(parts: dict[str, Tensor]) -> Tensor:
    codes = ((parts["qweight"][:, None, :] >> _BITS_IN_INT32[:, None]) & 15).flatten(0, 1)  # [in, out]
    # The first version of the format stores zero points less one.
    zeros = ((parts["qzeros"][:, :, None] >> _BITS_IN_INT32) & 15).flatten(1) + 1  # [groups, out]
    size = len(codes) // len(zeros)
    grid = (codes - zeros.repeat_interleave(size, 0)).float()
    return (grid * parts["scales"].float().repeat_interleave(size, 0)).T


def _decode_awq(parts: dict[str, Tensor]) -> Tensor:
    codes, zeros = (
        ((parts[name][:, :, None] >> _BITS_IN_INT32) & 15)[:, :, _AWQ_ORDER].flatten(1)
        for name in ("qweight", "qzeros")
    )
    size = len(codes) // len(zeros)
    grid = (codes - zeros.repeat_interleave(size, 0)).float()
    return (grid * parts["scales"].float().repeat_interleave(size, 0)).T


def _decode_gguf(file: Path, module: str) -> Tensor:
    from gguf import GGUFReader

    _, _, layer, part = module.split(".", 3)
    assert part == "mlp.down_proj", "other names are told apart by the converter alone"
    (found,) = (one for one in GGUFReader(file).tensors if one.name == f"blk.{layer}.ffn_down.weight")
    columns, rows = (int(size) for size in found.shape)
    data = torch.from_numpy(found.data.copy())
    if found.tensor_type.name == "F16":
        return data.view(rows, columns).float()
    size = {"Q8_0": 34, "Q4_0": 18}[found.tensor_type.name]
    blocks = data.view(torch.uint8).view(-1, size)  # [blocks, 2 of the scale, the codes of 32 weights]
    scales = blocks[:, :2].contiguous().view(torch.float16).float()
    if size == 34:
        codes = blocks[:, 2:].contiguous().view(torch.int8).float()
    else:
        codes = torch.cat([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], 1).float() - 8
    return (codes * scales).view(rows, columns)
