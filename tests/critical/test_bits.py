"""What is told of a bit is what the file does when it is flipped in it and audited."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from support.quantizing import pack_gguf
from support.stored import STORED, make

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.stored_bits import StoredModel
from sw_audit.corpus.text import read_corpus
from sw_audit.corpus.windows import window_corpus
from sw_audit.critical.bits import measure_bits
from sw_audit.critical.search import cut_text
from sw_audit.critical.trials import NOTHING, Trials
from sw_audit.critical_bytes import check_bytes
from sw_audit.errors import CheckpointError
from sw_audit.locate.locator import locate_super_weights
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy, Policy
from sw_audit.record.address import ScalarAddress
from sw_audit.record.bits import BitSheet, FlippedBit
from sw_audit.runner.bits import make_bit_sheet, write_bit_sheet
from sw_audit.runner.run import run
from sw_audit.specimen.shipped import specimen_path

SUPER_WEIGHT = ScalarAddress(parameter="model.layers.1.mlp.down_proj.weight", index=(5, 7))
GAIN = ScalarAddress(parameter="model.norm.weight", index=(5,))
TEXT = CorpusPolicy(source="specimen", window=64, windows=4)


def flip_in_file(folder: Path, bit: FlippedBit, place: Path) -> Path:
    """Copy a model with one bit flipped in its file, by nothing but what is told of that bit."""
    shutil.copytree(folder, place)
    held = bytearray((place / bit.file).read_bytes())
    assert held[bit.offset] == bit.byte
    held[bit.offset] = bit.byte_after
    (place / bit.file).write_bytes(held)
    return place


def measure(checkpoint: Checkpoint) -> float:
    """Return the loss of a model as it is on the text, nats per token."""
    windows, _ = cut_text(checkpoint, TEXT, locate_super_weights(checkpoint), 0)
    trials = Trials(checkpoint, windows)
    trials.measure([NOTHING], len(windows.token_ids))
    return sum(nats for nats in trials._nats[NOTHING] if nats is not None) / windows.scored


def make_sheet(folder: Path, *scalars: ScalarAddress, windows: int = 4) -> tuple[Checkpoint, BitSheet]:
    policy, text = ModelPolicy(source=str(folder)), TEXT.model_copy(update={"windows": windows})
    checkpoint = open_checkpoint(policy)
    cut = window_corpus(read_corpus(text), checkpoint.tokenizer, text, None, checkpoint.start.bos)
    return checkpoint, measure_bits(checkpoint, StoredModel(policy), scalars, cut, text="specimen")


@pytest.fixture(scope="module")
def sheet() -> BitSheet:
    return make_sheet(specimen_path(), SUPER_WEIGHT, GAIN, windows=16)[1]


def test_the_worst_bits_come_first_and_what_is_no_number_before_them(sheet: BitSheet) -> None:
    assert len(sheet.bits) == 64
    assert sheet.bits[0].destroys
    assert (sheet.bits[0].scalar, sheet.bits[0].kind, sheet.bits[0].after) == (GAIN, "exponent", None)
    damages = [bit.damage for bit in sheet.bits if not bit.destroys]
    assert damages == sorted(damages, key=lambda damage: -(damage or 0))
    [sign] = [bit for bit in sheet.bits if bit.scalar == SUPER_WEIGHT and bit.kind == "sign"]
    assert (sign.place, sign.bit, sign.after) == (31, 7, -sign.before)
    assert sign.effect is not None
    assert sign.effect.low is not None
    assert 5 < sign.effect.low < (sign.effect.ratio or 0)


def test_low_bits_are_measured_on_less_text_and_are_told_to_do_nothing(sheet: BitSheet) -> None:
    lowest = [bit for bit in sheet.bits if bit.kind == "mantissa" and (bit.place or 0) < 10]
    assert lowest
    for bit in lowest:
        assert bit.effect is not None
        assert bit.effect.windows == 1
        assert bit.effect.ratio == pytest.approx(1.0, abs=1e-3)


def test_the_model_is_as_before_and_equal_changes_are_measured_once() -> None:
    policy = ModelPolicy(source=str(specimen_path()))
    before = {name: value.clone() for name, value in open_checkpoint(policy).model.state_dict().items()}
    checkpoint, sheet = make_sheet(specimen_path(), SUPER_WEIGHT, SUPER_WEIGHT)
    assert all(torch.equal(value, before[name]) for name, value in checkpoint.model.state_dict().items())
    assert (len(sheet.bits), sheet.questions) == (64, 32)


def test_a_parameter_that_is_none_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no parameter of that name"):
        make_sheet(specimen_path(), ScalarAddress(parameter="model.nothing", index=(1,)))
    with pytest.raises(CheckpointError, match="the parameter is 64"):
        make_sheet(specimen_path(), ScalarAddress(parameter="model.norm.weight", index=(640,)))


@pytest.mark.parametrize("kind", ["plain", "Q4_1", "compressed-tensors-w4a16", "gptq", "bitsandbytes-nf4"])
def test_the_worst_bit_flipped_in_the_file_does_what_the_sheet_says(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    packed = {stored.name for stored in STORED}
    if kind in packed:
        make(kind, tmp_path)
    else:
        shutil.copytree(specimen_path(), folder)
    if kind == "Q4_1":
        pytest.importorskip("gguf")
        (folder / "model.safetensors").unlink()
        (folder / "config.json").unlink()
        pack_gguf(specimen_path(), folder / "model.gguf", kind)
    checkpoint, sheet = make_sheet(folder, SUPER_WEIGHT)
    plain = measure(checkpoint)
    finite = [bit for bit in sheet.bits if not bit.destroys]
    worst_scale = next((bit for bit in finite if bit.part == "scale"), finite[1])
    for number, bit in enumerate((finite[0], worst_scale)):
        flipped = flip_in_file(folder, bit, tmp_path / f"flipped-{number}")
        ratio = torch.tensor(measure(open_checkpoint(ModelPolicy(source=str(flipped)))) - plain).exp()
        assert bit.effect is not None
        assert bit.effect.windows == 4
        # Modules that keep codes compute in a narrow dtype of their own.
        assert bit.effect.ratio == pytest.approx(float(ratio), rel=2e-3 if kind in packed else 1e-4)
        assert bit.effect.ratio > 5


def test_no_digest_is_made_of_a_file_that_was_changed_meanwhile(sheet: BitSheet, tmp_path: Path) -> None:
    flipped = flip_in_file(specimen_path(), sheet.bits[0], tmp_path / "flipped")
    with pytest.raises(CheckpointError, match="no longer what it was"):
        write_bit_sheet(sheet, ModelPolicy(source=str(flipped)), tmp_path / "sheet")
    assert not (tmp_path / "sheet").exists()


@pytest.mark.slow
def test_the_sheet_of_a_search_holds_in_an_audit_and_a_loader_sees_the_flip(tmp_path: Path) -> None:
    model = ModelPolicy(source=str(specimen_path()))
    policy = Policy(models=(model,), corpus=CorpusPolicy(source="specimen"))
    sheet = make_bit_sheet(model, policy, most=1)
    assert len(sheet.scalars) == 1
    files = write_bit_sheet(sheet, model, tmp_path / "sheet")
    assert check_bytes(files["digest"], specimen_path()) == ()
    for bit in dict.fromkeys((sheet.bits[0], next(bit for bit in sheet.bits if not bit.destroys))):
        flipped = flip_in_file(specimen_path(), bit, tmp_path / f"flipped-{bit.offset}-{bit.bit}")
        [fault] = check_bytes(files["digest"], flipped)
        assert fault.offset <= bit.offset < fault.offset + fault.length
        models = (
            ModelPolicy(id="parent", source=str(specimen_path())),
            ModelPolicy(id="flipped", source=str(flipped), parent="parent"),
        )
        record = run(policy.model_copy(update={"models": models}), checks={"perplexity-ratio", "weights-intact"})
        failed = [verdict for verdict in record.verdicts if verdict.status == "fail"]
        assert failed, bit
        assert {verdict.model for verdict in failed} == {"flipped"}
