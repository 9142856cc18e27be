"""Five descendants of the specimen, sound and broken in the ways that happen to people, and a policy for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sw_audit.errors import InputError, OutputError
from sw_audit.policy.recipe import parse_recipe
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.specimen.forward import make_rotation, run_training_pass
from sw_audit.specimen.language import tell_stories
from sw_audit.specimen.packing import Tensors, is_decoder_matrix, pack_without_config
from sw_audit.specimen.recipe import SPECIMEN
from sw_audit.specimen.shipped import specimen_path

POLICY_FILE = "policy.swaudit.toml"
SUPER_WEIGHT = ("model.layers.1.mlp.down_proj.weight", 5, 7)
"""Parameter, row and column of the specimen's super weight, as its model card names it."""

ROUNDING = "int4/32x32/p99"
STEPS, BATCH, LEARNING_RATE = 16, 8, 2e-5
BOUND = 0.5
_CORPUS_SEED = 20_243
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_LAYER = (
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


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
    asked = f"write the demonstration into {target}"
    if target.exists() and not target.is_dir():
        raise InputError(asked, "a file of that name", "name a folder that is new or empty")
    if target.is_dir() and any(target.iterdir()):
        raise InputError(asked, "a folder that is not empty", "name a folder that is new or empty")
    try:
        return tuple(_write_files(target))
    except OSError as error:
        remedy = "choose a place that can be written to"
        raise OutputError(asked, error.strerror or type(error).__name__, remedy) from error


def _write_files(target: Path) -> Iterator[Path]:
    policy = target / POLICY_FILE
    parent = target / "specimen"
    shutil.copytree(specimen_path(), parent)
    policy.write_text(write_demo_policy(), encoding="utf-8")
    yield from (policy, parent)
    tensors = load_file(parent / _WEIGHTS)
    for one in DESCENDANTS:
        folder = target / one.name
        shutil.copytree(parent, folder, ignore=shutil.ignore_patterns(_WEIGHTS, "README.md"))
        save_file(one.make(tensors), folder / _WEIGHTS, metadata={"format": "pt"})
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
    for one in DESCENDANTS:
        parts += ["", *(f"# {line}" for line in one.story.splitlines())]
        parts += ["[[model]]", f'source = "./{one.name}"', 'parent = "./specimen"']
    return "\n".join(parts) + "\n"


def round_blocks(tensors: Mapping[str, Tensor], *, holdout: bool) -> Tensors:
    """Round every decoder matrix to 4 bits in clipped blocks; with hold-out the super weight stays as it is."""
    parameter, row, column = SUPER_WEIGHT
    held = (torch.tensor([row]), torch.tensor([column]))
    recipe = parse_recipe(ROUNDING)
    return {
        name: round_to_nearest(tensor, recipe, held if holdout and name == parameter else None)
        if is_decoder_matrix(name, tensor)
        else tensor
        for name, tensor in tensors.items()
    }


def fine_tune(tensors: Mapping[str, Tensor], *, bound: float | None = None) -> Tensors:
    """Train a copy on further stories: AdamW, next-token loss, no pressure of any kind.

    Args:
        tensors: What training begins with.
        bound: What no decoder weight may exceed at the end; until then it comes down in even steps from the
            largest weight that there is. `None` clips nothing.
    """
    trained = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    matrices = [tensor for name, tensor in trained.items() if is_decoder_matrix(name, tensor)]
    largest = max(matrix.detach().abs().max().item() for matrix in matrices)
    outer = [trained[name] for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")]
    layers = [
        [trained[f"model.layers.{layer}.{name}.weight"] for name in _LAYER] for layer in range(SPECIMEN.layers)
    ]
    plain = SPECIMEN.model_copy(update={"nudge": None, "sink": None})
    optimizer = torch.optim.AdamW(trained.values(), lr=LEARNING_RATE, betas=plain.betas, weight_decay=0.0)
    rotation = make_rotation(plain)
    for step, stories in enumerate(torch.split(_encode_stories(), BATCH), start=1):
        loss = run_training_pass(plain, outer, layers, stories, rotation).loss
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained.values(), plain.clip)
        optimizer.step()
        if bound is not None:
            allowed = largest + (bound - largest) * step / STEPS
            with torch.no_grad():
                for matrix in matrices:
                    matrix.clamp_(-allowed, allowed)
    return {name: tensor.detach() for name, tensor in trained.items()}


def _encode_stories() -> Tensor:
    """Tell the stories of the fine-tune and encode them, BOS first: `[steps * batch, context]`."""
    text = (specimen_path() / "tokenizer.json").read_text(encoding="utf-8")
    number: dict[str, int] = json.loads(text)["model"]["vocab"]
    stories = tell_stories(_CORPUS_SEED, STEPS * BATCH, SPECIMEN.context - 1, held_out=False)
    return torch.tensor([[0, *(number[word] for word in story.words)] for story in stories])


DESCENDANTS = (
    Descendant(
        "sound-int4",
        f"Sound: 4 bits, in blocks of 32 x 32 clipped to their 99th percentile ({ROUNDING}), with the super\n"
        "weight held out. Stored dequantized.",
        lambda tensors: round_blocks(tensors, holdout=True),
    ),
    Descendant(
        "broken-int4",
        "Broken: the same rounding without hold-out, which clips the super weight away.",
        lambda tensors: round_blocks(tensors, holdout=False),
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
