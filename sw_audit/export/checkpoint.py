"""Rounds an open model for good, and writes it so that it opens without this package."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from sw_audit import __version__
from sw_audit.arms.matrices import index_scalars
from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.suppress_output import quiet_libraries
from sw_audit.errors import PolicyError
from sw_audit.export.folder import add_metadata, write_card
from sw_audit.export.packing import pack_model_, require_packable
from sw_audit.policy.recipe import Recipe, count_bits
from sw_audit.policy.targets import is_targeted, match_targets
from sw_audit.progress import Progress, ignore_progress
from sw_audit.quantize.calibration import Calibration, weigh_columns
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.address import AddressGroup, WeightAddress, group_addresses
from sw_audit.record.arm import Quantize
from sw_audit.record.checkpoint import Export, Form, HeldWeight
from sw_audit.record.store import whole_folder

METADATA_KEY = "sw_audit"
_COPIED = {".json", ".txt", ".model", ".jinja", ".tiktoken", ".bpe", ".py"}


@dataclass(frozen=True)
class ExportOrder:
    """What is to be done.

    Attributes:
        recipe: How weights are rounded.
        form: How they are written.
        keep: Weights that are kept in full precision (held out).
        because: Why these, or why none.
        targets: Which matrices, see `is_targeted`.
        ignore: Which of these are left alone.
    """

    recipe: Recipe
    form: Form = "dense"
    keep: tuple[WeightAddress, ...] = ()
    because: str = "nothing was asked for"
    targets: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


def export_checkpoint(
    checkpoint: Checkpoint,
    order: ExportOrder,
    folder: Path,
    source: CheckpointFolder,
    progress: Progress = ignore_progress,
    calibrations: Sequence[Calibration | None] = (),
) -> Export:
    """Round an open model, whose weights are changed for good, and write it.

    What is in the folder is replaced once all is written; `source` is where the model is from, whose small files
    are copied. A clip that is searched needs calibrations, what some text showed of each layer. What was done
    stands in the metadata of every weight file, and in the model card.

    Raises:
        InputError: If a pattern matches nothing, an address is none of the model's, or the form cannot hold it.
        OutputError: If the folder cannot be written.
    """
    act, untouched = plan_rounding(checkpoint, order)
    names = (matrix.parameter for layer in checkpoint.layers for matrix in layer.matrices)
    patterns = match_targets(names, order.targets, order.ignore)
    with whole_folder(folder) as draft:
        rounded = round_model_(checkpoint.layers, act, untouched, progress, calibrations)
        done = Export(
            **checkpoint.identity.model_dump(include={"source", "revision", "digest", "dtype"}),
            recipe=str(order.recipe),
            form=order.form,
            patterns=patterns,
            matrices=len(rounded.matrices),
            held_out=tuple(rounded.kept),
            because=order.because,
            untouched=tuple(name.removesuffix(".weight") for name in untouched),
            bits_per_weight=rounded.bits / rounded.weights,
            tool=f"sw-audit {__version__}",
        )
        with quiet_libraries():
            _write_model(checkpoint.model, order, frozenset(rounded.matrices), draft)
        _copy_small_files(source, draft)
        if not source.has_tokenizer:
            checkpoint.tokenizer.save_pretrained(draft)
        for path in draft.glob("*.safetensors"):
            add_metadata(path, {METADATA_KEY: done.model_dump_json()})
        (draft / "README.md").write_text(write_card(done, folder.resolve().name), encoding="utf-8")
    return done


def plan_rounding(checkpoint: Checkpoint, order: ExportOrder) -> tuple[Quantize, tuple[str, ...]]:
    """Return what the arm does, and which parameters stay in full precision because a weight in them does.

    Packed codes have no place for a weight in full precision, so its whole module is left alone.

    Raises:
        InputError: If an address is none of the model's, or the recipe or the form cannot be.
    """
    for address in order.keep:
        matrices = (layer.find_matrix(address.parameter, address.expert) for layer in checkpoint.layers)
        if all(matrix is None for matrix in matrices):
            remedy = f"name one, such as {checkpoint.layers[0].matrices[-1].parameter}[0, 0]"
            raise PolicyError(f"hold-out {address}", "the model has no such matrix", remedy)
    holdout = group_addresses(order.keep)
    act = Quantize(recipe=order.recipe, holdout=holdout, targets=order.targets, ignore=order.ignore)
    if order.form == "dense":
        return act, ()
    untouched = tuple(sorted({address.parameter for address in order.keep}))
    packed = {
        matrix.parameter
        for layer in checkpoint.layers
        for matrix in layer.matrices
        if is_targeted(matrix.parameter, order.targets, order.ignore) and matrix.parameter not in untouched
    }
    require_packable(checkpoint.layers, order.recipe, packed)
    return act, untouched


@dataclass
class Rounded:
    """What has been rounded.

    Attributes:
        matrices: Names of the parameters, experts that are fused in one counted one by one.
        kept: What was kept in full precision, with its values.
        bits: What the decoder's matrices take, those in full precision included.
        weights: How many weights they have.
    """

    matrices: list[str] = field(default_factory=list)
    kept: list[HeldWeight] = field(default_factory=list)
    bits: float = 0.0
    weights: int = 0


@torch.no_grad()
def round_model_(
    layers: Sequence[DecoderLayer],
    act: Quantize,
    untouched: Collection[str] = (),
    progress: Progress = ignore_progress,
    calibrations: Sequence[Calibration | None] = (),
) -> Rounded:
    """Round every targeted matrix of a model in place, as the arm with this act does while it measures.

    The parameters in `untouched` stay in full precision all the same. Calibrations are those of the layers, in
    order.

    Raises:
        CorpusError: If a clip is searched and there are no calibrations.
        CheckpointError: If the address of a kept weight lies outside its matrix.
    """
    rounded = Rounded()
    for number, layer in enumerate(layers):
        calibration = calibrations[number] if calibrations else None
        for matrix in layer.matrices:
            weight = matrix.weight
            kept = [
                group
                for group in act.holdout
                if (group.parameter, group.expert) == (matrix.parameter, matrix.expert)
            ]
            rounded.weights += weight.numel()
            rounded.kept += _read_values(matrix, kept)
            if is_targeted(matrix.parameter, act.targets, act.ignore) and matrix.parameter not in untouched:
                index = index_scalars(matrix, kept) if kept else None
                importance = weigh_columns(act.recipe, matrix.parameter, matrix.shape[1], calibration)
                round_to_nearest(weight, act.recipe, index, importance, out=weight)
                rounded.matrices.append(matrix.parameter)
                rounded.bits += count_bits(act.recipe, matrix.shape, sum(map(len, kept)))
            else:
                rounded.bits += 8 * weight.element_size() * weight.numel()
        progress("quantizing", number + 1, len(layers))
    return rounded


def _read_values(matrix: Matrix, groups: Sequence[AddressGroup]) -> Iterator[HeldWeight]:
    for group in groups:
        rows, columns = index_scalars(matrix, [group])
        values = matrix.weight[rows, columns].tolist()
        for row, column, value in zip(group.rows, group.columns, values, strict=True):
            address = WeightAddress(parameter=group.parameter, row=row, column=column, expert=group.expert)
            yield HeldWeight(address=address, value=value)


def _write_model(model: Any, order: ExportOrder, parameters: frozenset[str], folder: Path) -> None:
    compressor = None if order.form == "dense" else pack_model_(model, order.recipe, parameters)
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:
        raise OSError(str(error)) from error  # a full disk, as the library tells it
    if compressor is not None:
        compressor.update_config(str(folder))


def _copy_small_files(source: CheckpointFolder, folder: Path) -> None:
    """Copy what the library has not written: the tokenizer, a processor's settings, a licence, ..."""
    for path in source.contents:
        belongs = path.suffix in _COPIED or path.name.upper().startswith(("LICENSE", "NOTICE"))
        own = path.name.endswith(".index.json") or (folder / path.name).exists()
        if belongs and not own:
            shutil.copyfile(path, folder / path.name)
