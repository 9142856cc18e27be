"""The story of an export: round an open model for good, and write it so that it opens without this package."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sw_audit import __version__
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.suppress_output import quiet_libraries
from sw_audit.errors import PolicyError
from sw_audit.export.card import write_card
from sw_audit.export.folder import whole_folder
from sw_audit.export.metadata import add_metadata
from sw_audit.export.packing import describe_packing, pack_model_, require_packable
from sw_audit.export.rounding import list_missing, round_model_
from sw_audit.policy.clip import SearchClip
from sw_audit.policy.recipe import Recipe
from sw_audit.policy.targets import PatternMatch, is_targeted, match_targets
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.address import WeightAddress, group_addresses
from sw_audit.record.arm import Quantize
from sw_audit.record.export import Export, Form

METADATA_KEY = "sw_audit"
_COPIED = {".json", ".txt", ".model", ".jinja", ".tiktoken", ".bpe", ".py"}


@dataclass(frozen=True)
class ExportOrder:
    """What is to be done.

    Attributes:
        recipe: How weights are rounded.
        form: How they are written.
        holdout: What is held out.
        because: Why these, or why none.
        targets: Which matrices, see `is_targeted`.
        ignore: Which of these are left alone.
    """

    recipe: Recipe
    form: Form = "dense"
    holdout: tuple[WeightAddress, ...] = ()
    because: str = "nothing was asked for"
    targets: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


def export_checkpoint(
    checkpoint: Checkpoint,
    order: ExportOrder,
    folder: Path,
    source: Path,
    progress: Progress = ignore_progress,
) -> Export:
    """Round an open model and write it.

    Args:
        checkpoint: The model; its weights are changed for good, there is no second copy of them.
        order: What is to be done.
        folder: Where it goes; what is there is replaced, once all is written.
        source: Where the model's own files are; small ones that belong to it are copied.
        progress: Told after each layer.

    Returns:
        What was done; it stands in the metadata of every weight file, and in the model card.

    Raises:
        InputError: If a pattern matches nothing, an address is none of the model's, or the form cannot hold it.
        OutputError: If the folder cannot be written.
    """
    act, untouched = plan_rounding(checkpoint, order)
    patterns = _match(checkpoint, order)
    with whole_folder(folder) as draft:
        rounded = round_model_(checkpoint.layers, act, untouched, progress)
        done = Export(
            source=checkpoint.identity.source,
            revision=checkpoint.identity.revision,
            digest=checkpoint.identity.digest,
            dtype=checkpoint.identity.dtype,
            recipe=str(order.recipe),
            form=order.form,
            patterns=patterns,
            matrices=len(rounded.matrices),
            held_out=tuple(rounded.held_out),
            because=order.because,
            untouched=tuple(one.removesuffix(".weight") for one in untouched),
            bits_per_weight=rounded.bits / rounded.weights,
            tool=f"sw-audit {__version__}",
        )
        with quiet_libraries():
            _write_model(checkpoint.model, order, frozenset(rounded.matrices), draft)
        _copy_small_files(source, draft)
        for path in draft.glob("*.safetensors"):
            add_metadata(path, {METADATA_KEY: done.model_dump_json()})
        (draft / "README.md").write_text(write_card(done, folder.resolve().name), encoding="utf-8")
    return done


def plan_rounding(checkpoint: Checkpoint, order: ExportOrder) -> tuple[Quantize, tuple[str, ...]]:
    """Work out the arm's act, and which parameters stay in full precision for the sake of a held-out weight.

    Packed codes have no place for a weight in full precision, so its whole module is left alone there.

    Raises:
        InputError: If an address is none of the model's, or the recipe or the form cannot be.
    """
    if isinstance(order.recipe.clip, SearchClip) and order.recipe.clip.on == "corpus":
        asked = f"recipe {str(order.recipe)!r}"
        raise PolicyError(asked, "there is no calibration text here", "search without one (/search)")
    for address in list_missing(checkpoint.layers, order.holdout):
        name = checkpoint.layers[0].matrices[-1].parameter
        raise PolicyError(f"hold-out {address}", "the model has no such matrix", f"name one, such as {name}[0, 0]")
    act = Quantize(
        recipe=order.recipe,
        holdout=group_addresses(order.holdout),
        targets=order.targets,
        ignore=order.ignore,
    )
    if order.form == "dense":
        return act, ()
    untouched = tuple(sorted({one.parameter for one in order.holdout}))
    packed = {
        matrix.parameter
        for layer in checkpoint.layers
        for matrix in layer.matrices
        if is_targeted(matrix.parameter, order.targets, order.ignore) and matrix.parameter not in untouched
    }
    require_packable(checkpoint.layers, order.recipe, packed)
    return act, untouched


def _match(checkpoint: Checkpoint, order: ExportOrder) -> tuple[PatternMatch, ...]:
    names = (matrix.parameter for layer in checkpoint.layers for matrix in layer.matrices)
    return match_targets(names, order.targets, order.ignore)


def _write_model(model: Any, order: ExportOrder, parameters: frozenset[str], folder: Path) -> None:
    if order.form == "dense":
        model.save_pretrained(folder)
        return
    compressor = pack_model_(model, order.recipe, parameters)
    model.save_pretrained(folder)
    describe_packing(compressor, folder)


def _copy_small_files(source: Path, folder: Path) -> None:
    """Copy what the library has not written: the tokenizer, a processor's settings, a licence, ..."""
    for path in sorted(source.iterdir()):
        belongs = path.suffix in _COPIED or path.name.upper().startswith(("LICENSE", "NOTICE"))
        if (
            path.is_file()
            and belongs
            and not path.name.endswith(".index.json")
            and not (folder / path.name).exists()
        ):
            shutil.copyfile(path, folder / path.name)
