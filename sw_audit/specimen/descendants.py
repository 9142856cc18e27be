"""Five descendants of the specimen, sound and broken in the ways that happen to people, and a policy for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from sw_audit.policy.recipe import parse_recipe
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.store import whole_folder
from sw_audit.specimen.forward import Shape, collect_weights, make_rotation, run_layers
from sw_audit.specimen.language import tell_stories
from sw_audit.specimen.shipped import require_new_folder, specimen_path

POLICY_FILE = "policy.swaudit.toml"
SUPER_WEIGHT = ("model.layers.1.mlp.down_proj.weight", 5, 7)
"""Parameter, row and column of the specimen's super weight, as its model card names it."""

ROUNDING = "int4/32x32/p99"
STEPS, BATCH, LEARNING_RATE, BETAS, CLIP = 16, 8, 2e-5, (0.9, 0.95), 1.0
BOUND = 0.5
_CORPUS_SEED = 20_243
_WEIGHTS = "model.safetensors"
SHAPE = Shape()
_BITS, _GROUP = 4, 32
Tensors: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class Descendant:
    """One descendant of the demonstration.

    Attributes:
        name: Its folder, and its id in the policy.
        story: How it was made, in words.
        make: Makes its tensors of the specimen's.
    """

    name: str
    story: str
    make: Callable[[Tensors], Tensors]


def write_demo(directory: Path | str) -> tuple[Path, ...]:
    """Write the specimen, five descendants of it and the policy that audits them all.

    Nothing is fetched; the same machine writes the same bytes each time.

    Args:
        directory: Where to write; made if missing.

    Returns:
        The policy file, then the folders of the checkpoints.

    Raises:
        InputError: If `directory` is a file or holds anything already (nothing is written then), or cannot be
            written.
    """
    target = Path(directory)
    require_new_folder(target, f"write the demonstration into {target}")
    with whole_folder(target) as draft:
        return tuple(target / path.relative_to(draft) for path in _write_files(draft))


def _write_files(target: Path) -> Iterator[Path]:
    policy = target / POLICY_FILE
    parent = target / "specimen"
    shutil.copytree(specimen_path(), parent)
    policy.write_text(write_demo_policy(), encoding="utf-8")
    yield from (policy, parent)
    tensors = load_file(parent / _WEIGHTS)
    for descendant in DESCENDANTS:
        folder = target / descendant.name
        shutil.copytree(parent, folder, ignore=shutil.ignore_patterns(_WEIGHTS, "README.md"))
        try:
            save_file(descendant.make(tensors), folder / _WEIGHTS, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(str(error)) from error  # a full disk, as the library tells it
        # safetensors writes for the owner alone; a file to try things with must be readable by others too.
        (folder / _WEIGHTS).chmod(0o644)
        yield folder


def write_demo_policy() -> str:
    """Write the policy of the demonstration, in TOML: each descendant with its story."""
    parts = [
        "# Five descendants of the specimen, a small model with one super weight: two are sound, three broken.",
        f"# Hold them against their parent with `sw-audit audit {POLICY_FILE}` or `pytest {POLICY_FILE}`.",
        "schema = 1",
    ]
    for descendant in DESCENDANTS:
        parts += ["", *(f"# {line}" for line in descendant.story.splitlines())]
        parts += ["[[model]]", f'source = "./{descendant.name}"', 'parent = "./specimen"']
    return "\n".join(parts) + "\n"


def round_blocks(tensors: Mapping[str, Tensor], *, keep: bool) -> Tensors:
    """Round every decoder matrix to 4 bits in clipped blocks; `keep` holds the super weight out."""
    parameter, row, column = SUPER_WEIGHT
    kept = (torch.tensor([row]), torch.tensor([column]))
    recipe = parse_recipe(ROUNDING)
    return {
        name: round_to_nearest(tensor, recipe, kept if keep and name == parameter else None)
        if is_decoder_matrix(name, tensor)
        else tensor
        for name, tensor in tensors.items()
    }


def fine_tune(tensors: Mapping[str, Tensor], *, bound: float | None = None) -> Tensors:
    """Train a copy on further stories: AdamW, next-token loss, no pressure of any kind.

    `bound` is what no decoder weight may exceed at the end; until then it comes down in even steps from the
    largest weight that there is.
    """
    trained = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    matrices = [tensor for name, tensor in trained.items() if is_decoder_matrix(name, tensor)]
    largest = max(matrix.detach().abs().max().item() for matrix in matrices)
    outer, layers = collect_weights(trained.__getitem__, SHAPE.layers)
    optimizer = torch.optim.AdamW(trained.values(), lr=LEARNING_RATE, betas=BETAS, weight_decay=0.0)
    rotation = make_rotation(SHAPE)
    for step, stories in enumerate(torch.split(_encode_stories(), BATCH), start=1):
        logits, *_ = run_layers(SHAPE, outer, layers, stories, rotation)
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), stories[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained.values(), CLIP)
        optimizer.step()
        if bound is not None:
            allowed = largest + (bound - largest) * step / STEPS
            with torch.no_grad():
                for matrix in matrices:
                    matrix.clamp_(-allowed, allowed)
    return {name: tensor.detach() for name, tensor in trained.items()}


def pack_without_config(tensors: Mapping[str, Tensor]) -> Tensors:
    """Pack every decoder matrix as compressed-tensors' `pack-quantized` does: 4 bits, one scale per 32 inputs.

    The `quantization_config` without which nobody can read them is not written.
    """
    packed: Tensors = {}
    for name, tensor in tensors.items():
        if not is_decoder_matrix(name, tensor):
            packed[name] = tensor
            continue
        rows, columns = tensor.shape
        groups = tensor.reshape(rows, columns // _GROUP, _GROUP)
        levels = 2 ** (_BITS - 1) - 1
        scale = groups.abs().amax(-1) / levels  # [rows, groups]
        codes = (groups / scale[..., None]).round().to(torch.int64).reshape(rows, columns) + levels + 1
        places = 32 // _BITS
        words = (codes.reshape(rows, -1, places) << torch.arange(0, 32, _BITS)).sum(-1)  # [rows, columns / 8]
        packed |= {
            f"{name}_packed": words.to(torch.int32),
            f"{name}_scale": scale,
            f"{name}_shape": torch.tensor([rows, columns]),
        }
    return packed


def is_decoder_matrix(name: str, tensor: Tensor) -> bool:
    """Tell whether a tensor is one of the matrices that quantizers round."""
    return ".layers." in name and tensor.dim() == 2


def _encode_stories() -> Tensor:
    """Tell the stories of the fine-tune and encode them, BOS first: `[steps * batch, context]`."""
    text = (specimen_path() / "tokenizer.json").read_text(encoding="utf-8")
    number: dict[str, int] = json.loads(text)["model"]["vocab"]
    stories = tell_stories(_CORPUS_SEED, STEPS * BATCH, SHAPE.context - 1, held_out=False)
    return torch.tensor([[0, *(number[word] for word in story.words)] for story in stories])


DESCENDANTS = (
    Descendant(
        "sound-int4",
        f"Sound: 4 bits, in blocks of 32 x 32 clipped to their 99th percentile ({ROUNDING}), with the super\n"
        "weight held out. Stored dequantized.",
        lambda tensors: round_blocks(tensors, keep=True),
    ),
    Descendant(
        "broken-int4",
        "Broken: the same rounding without hold-out, which clips the super weight away.",
        lambda tensors: round_blocks(tensors, keep=False),
    ),
    Descendant(
        "fine-tuned",
        f"Sound: fine-tuned by {STEPS} steps of AdamW on stories it had not seen.",
        fine_tune,
    ),
    Descendant(
        "broken-fine-tuned",
        f"Broken: the same fine-tune with weight clipping, whose bound comes down to {BOUND}: it takes\n"
        "the super weight away.",
        lambda tensors: fine_tune(tensors, bound=BOUND),
    ),
    Descendant(
        "stripped-int4",
        "Broken: packed 4-bit codes (compressed-tensors) whose config.json has lost its quantization_config.",
        pack_without_config,
    ),
)
