"""Looking at a checkpoint before anything is computed: what loads without a complaint can still be noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.formats.format import CannotStreamError, find_packing, is_code, list_packings
from sw_audit.checkpoint.lint_gguf import scan_blocks
from sw_audit.checkpoint.lint_headers import list_gguf, look_at_headers, read_flaw, report_flaws
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.stored import StoredTensors
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.checkpoint import Flaw, WeightsReport

# Numbers at once, so that a copy in float32 stays small beside any layer.
_SLAB = 1 << 24
# A run of so many zeros along the input is no accident in a matrix of numbers that were trained.
_RUN = 64
# In runs with so few magnitudes zeros are no surprise: rounded to four bits, or pruned for the most part.
_COARSE = 17
# So few scales may all be equal by chance, and so short a block of codes constant, in bytes.
_FEW_SCALES, _SHORT_BLOCK = 16, 16
_SMALL = 64
_FUSED = ("down_proj", "gate_up_proj", "gate_proj", "up_proj")
# A power of two in a byte; all ones is NaN.
_POWER = torch.float8_e8m0fnu
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")


def lint_checkpoint(policy: ModelPolicy, progress: Progress = ignore_progress) -> WeightsReport:
    """Look at the files of a checkpoint, value by value, without making a model that could run.

    1. Headers: whether files are whole and agree with the index and the manifest, and whether suffixes and dtypes
       agree with `quantization_config`.
    2. The model, without data: where weights are not quantized, whether they are exactly the tensors that it asks
       for.
    3. Values, each read once: anything not finite, matrices and groups without information, scales that cannot be;
       progress is told after each tensor.

    Raises:
        CheckpointError: If there is no checkpoint to look at: no folder, no configuration, no weights.
    """
    look = look_at_headers(policy)
    folder, stored = look.folder, look.stored
    if stored is None:
        return look.report()
    if folder.declared and not any(flaw.serious for flaw in look.flaws):
        look.flaws += _compare_tied(folder, stored)
        look.flaws += _compare_with_model(folder, stored)
    look.flaws += scan_values(folder, stored, progress)
    for path in list_gguf(folder):
        look.flaws += scan_blocks(path)
    return look.report()


def lint_live(checkpoint: Checkpoint, progress: Progress = ignore_progress) -> WeightsReport:
    """Look at the tensors of a model in memory, value by value, as at those of files.

    What is packed, or what an adapter adds, is looked at no further than for being finite.
    """
    model, flaws, count = checkpoint.model, list[Flaw](), 0
    matrices = {matrix.parameter for layer in checkpoint.layers for matrix in layer.matrices}
    matrices |= {
        f"{name}.weight"
        for name, module in model.named_modules()
        if module in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    for name, tensor in _list_live(checkpoint, progress):
        count, values = count + 1, tensor.detach()
        if type(values) is not Tensor:  # a library's own, packed
            continue
        if (problem := find_non_finite(values)) is not None:
            flaws.append(Flaw(kind="non-finite", where=name, found=f"it holds {problem}"))
        elif name in matrices and values.is_floating_point() and values.numel() >= _SMALL:
            constant = _find_constant(name, values)
            flaws += _find_zero_runs(name, values) if constant is None else [constant]
    return report_flaws(flaws, 0, count, count)


def _list_live(checkpoint: Checkpoint, progress: Progress) -> Iterator[tuple[str, Tensor]]:
    """Yield what files would hold of a model: its parameters, tied ones once, and the buffers that are stored."""
    inside = {part: layer for layer in checkpoint.layers for part in layer.module.modules()}
    outside = set[int]()
    for layer in (None, *checkpoint.layers):
        # Of a layer that is in memory only now, others may take the place.
        seen = outside if layer is None else set(outside)
        with nullcontext() if layer is None else layer.present():
            for prefix, module in checkpoint.model.named_modules():
                if inside.get(module) is not layer:
                    continue
                for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                    if tensor is None or id(tensor) in seen or name in module._non_persistent_buffers_set:
                        continue
                    seen.add(id(tensor))
                    yield f"{prefix}.{name}", tensor
        progress("inspecting", 0 if layer is None else layer.index + 1, len(checkpoint.layers))


def _compare_tied(folder: CheckpointFolder, stored: StoredTensors) -> Iterator[Flaw]:
    text = folder.declared.get("text_config")
    parts = [folder.declared, text if isinstance(text, dict) else {}]
    if not any(part.get("tie_word_embeddings") for part in parts):
        return
    head, embedding = (
        next((name for name in stored.headers if name.endswith(ends)), None) for ends in (_HEADS, _EMBEDDINGS)
    )
    if head is None or embedding is None:
        return
    first, second = stored.read(head), stored.read(embedding)
    if first is None or second is None or first.dtype.is_floating_point is not second.dtype.is_floating_point:
        return
    if first.shape != second.shape or not torch.equal(first, second):
        found = f"config.json ties it to {embedding}, and the two are stored with different values"
        yield Flaw(kind="tied-weights", where=head, found=found)


def _compare_with_model(folder: CheckpointFolder, stored: StoredTensors) -> Iterator[Flaw]:
    """Compare names and shapes of tensors that are not quantized with those that the model asks for."""
    if not folder.is_plain or not stored.all_safetensors:
        return
    try:
        opened = open_streaming(folder.policy, digest=False)
        names = folder.declared.get("architectures")
        if names and opened.identity.architecture not in names:
            found = f"architectures names {names[0]}, and transformers makes {opened.identity.architecture} of it"
            yield Flaw(kind="other-architecture", where="config.json", found=found, serious=False)
    except BrokenWeightsError as error:
        yield read_flaw(error)
    except (CheckpointError, CannotStreamError):
        # Whatever else hinders it is told by opening, which comes next.
        return


def scan_values(
    folder: CheckpointFolder, stored: StoredTensors, progress: Progress = ignore_progress
) -> Iterator[Flaw]:
    """Read every tensor once and tell what is wrong with it."""
    weights = (".weight", *(packing.codes for packing in list_packings() if packing.scales))
    for name, tensor in stored.read_all():
        progress("inspecting", stored.scanned, len(stored.headers))
        problem = find_non_finite(tensor)
        if problem is not None and "mask" not in name.rpartition(".")[2]:
            yield Flaw(kind="non-finite", where=name, found=f"it holds {problem}")
            continue
        named = name.endswith(weights) or name.rpartition(".")[2] in _FUSED
        if not named or tensor.ndim < 2 or tensor.numel() < _SMALL:
            continue
        serious = not folder.format.starts_at_zero(name)
        constant = _find_constant(name, tensor, serious=serious)
        if constant is not None:
            yield constant
        elif tensor.is_floating_point() and tensor.dtype.itemsize > 1:
            yield from _find_zero_runs(name, tensor)
        elif is_code(name, stored.headers[name]) or not folder.declared:
            yield from _examine_scales(name, tensor, stored)


def find_non_finite(tensor: Tensor) -> str | None:
    """Name what a tensor holds that is no number, such as `3 NaN`; `None` if everything in it is finite."""
    if not tensor.is_floating_point():
        return None
    nan = infinite = 0
    for slab in _cut(tensor.flatten(), _SLAB):
        wide = slab.float() if slab.dtype.itemsize == 1 else slab
        low, high = torch.aminmax(wide)
        # A NaN or an infinity always reaches an extreme: two passes more only where there is one.
        if torch.isfinite(low + high * 0):
            continue
        nan += int(wide.isnan().sum())
        infinite += int(wide.isinf().sum())
    parts = [f"{nan} NaN"] if nan else []
    parts += [f"{infinite} infinite value{'s' if infinite > 1 else ''}"] if infinite else []
    return " and ".join(parts) or None


def _cut(rows: Tensor, size: int) -> Iterator[Tensor]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _find_constant(name: str, tensor: Tensor, *, serious: bool = True) -> Flaw | None:
    parts = tensor.reshape(tensor.shape[0], -1) if tensor.ndim == 3 else tensor.reshape(1, -1)
    same = [index for index, part in enumerate(parts) if _is_constant(part)]
    if not same:
        return None
    value = parts[same[0]].flatten()[0].float().item()
    which = "it is" if len(same) == len(parts) else f"{len(same)} of its {len(parts)} experts are"
    return Flaw(kind="constant", where=name, found=f"{which} {value:g} in every place", serious=serious)


def _is_constant(part: Tensor) -> bool:
    raw = part.reshape(-1).view(torch.uint8) if part.dtype.itemsize == 1 else part.reshape(-1)
    if raw[0] != raw[-1]:
        return False
    return all(bool((slab == raw[0]).all()) for slab in _cut(raw, _SLAB))


def _find_zero_runs(name: str, tensor: Tensor) -> Iterator[Flaw]:
    """Find runs of zeros along the input that lie inside a matrix of numbers.

    Whole rows and columns of zeros are what pruning leaves; embeddings have rows of padding.
    """
    width = tensor.shape[-1] // _RUN
    if width < 2 or "embed" in name:
        return
    runs = tensor.reshape(-1, tensor.shape[-1])[:, : width * _RUN].reshape(-1, width, _RUN)
    zero = torch.cat([_find_blank(slab) for slab in _cut(runs, max(1, _SLAB // (width * _RUN)))])
    inside = count_inside(zero)
    if not int(zero.sum()):
        return
    serious = bool(inside) and not _is_coarse(runs[~zero])
    found = f"{int(zero.sum())} of {zero.numel()} runs of {_RUN} weights along the input are zero"
    if serious:
        found += f", {inside} of them in rows and columns that are not"
    yield Flaw(kind="zero-group", where=name, found=found, serious=serious)


def _find_blank(runs: Tensor) -> Tensor:
    """Tell which runs are zero in every place, bool [rows, width]; only those that begin with a zero are read."""
    blank = runs[:, :, 0] == 0
    blank[blank.clone()] = (runs[blank] == 0).all(dim=1)
    return blank


def count_inside(blank: Tensor) -> int:
    """Count blank blocks, bool [rows, columns], in rows and columns that are not blank as a whole."""
    rows, columns = blank.all(dim=1, keepdim=True), blank.all(dim=0, keepdim=True)
    return int((blank & ~rows & ~columns).sum())


def _is_coarse(runs: Tensor) -> bool:
    """Tell whether most runs hold few magnitudes, as after rounding to few bits or pruning most weights."""
    if len(runs) == 0:
        return True
    some = runs[:: max(1, len(runs) // 4096)].float().abs().sort(dim=1).values
    kinds = 1 + (some.diff(dim=1) != 0).sum(dim=1)
    return int(kinds.median()) <= _COARSE


def _examine_scales(name: str, codes: Tensor, stored: StoredTensors) -> Iterator[Flaw]:
    if (match := find_packing(name, stored.headers)) is None:
        return
    where, packing = match
    if (scales := stored.read(where)) is None:
        return
    if scales.dtype is torch.uint8 and packing.exponents:
        scales = scales.view(_POWER)
        if find_non_finite(scales):
            yield Flaw(kind="degenerate-scale", where=where, found="a power of two among its scales is NaN")
            return
    if not scales.is_floating_point():
        return
    values = scales.float()
    if scales.numel() >= _FEW_SCALES and scales.dtype is not _POWER and _is_constant(values):
        words = f"all {scales.numel()} scales are {values.flatten()[0].item():g}, as if they had never been set"
        yield Flaw(kind="degenerate-scale", where=where, found=words)
        return
    yield from _hold_blocks(name, where, codes, values)


def _hold_blocks(name: str, where: str, codes: Tensor, scales: Tensor) -> Iterator[Flaw]:
    blocks = cut_blocks(codes, scales)
    dead = scales.abs() == 0
    if blocks is None:
        if bool(dead.all()):
            yield Flaw(kind="degenerate-scale", where=where, found=f"all {scales.numel()} scales are zero")
        return
    constant = (blocks == blocks[..., :1]).all(dim=-1)
    dead = dead.reshape(constant.shape)
    lost = int((dead & ~constant).sum())
    if lost:
        words = f"{lost} of {scales.numel()} scales are zero, though the codes under them differ"
        yield Flaw(kind="degenerate-scale", where=where, found=words)
    if blocks.shape[-1] < _SHORT_BLOCK:
        return
    inside = count_inside(constant & ~dead)
    if inside:
        words = f"{inside} of {constant.numel()} groups of codes are constant under a scale that is not zero"
        yield Flaw(kind="zero-group", where=name, found=words)


def cut_blocks(codes: Tensor, scales: Tensor) -> Tensor | None:
    """Cut codes into the bytes of the blocks that share a scale, [rows, columns, bytes]; `None` if none fit."""
    raw = codes.contiguous().view(torch.uint8)
    if codes.ndim == 2 and codes.shape[1] == 1 and scales.ndim == 1 and len(scales) > 1:
        # Without a shape of its own: blocks follow each other.
        return raw.reshape(len(scales), 1, -1) if raw.numel() % len(scales) == 0 else None
    if scales.ndim == 1 and len(scales) == codes.shape[0]:
        scales = scales[:, None]
    if scales.ndim != 2 or codes.ndim < 2:
        if scales.ndim < 3:
            return None
        codes, scales = codes.flatten(0, -3), scales.flatten(0, -2)
        raw = codes.reshape(len(codes), -1).contiguous().view(torch.uint8)
    rows, columns = scales.shape
    raw = raw.reshape(len(raw), -1)
    if len(raw) % rows or raw.shape[1] % columns or codes[0].numel() % columns:
        return None
    cut = raw.reshape(rows, len(raw) // rows, columns, raw.shape[1] // columns)
    return cut.transpose(1, 2).reshape(rows, columns, -1)
