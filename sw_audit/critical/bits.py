"""What every bit of a scalar does to a model when it flips, measured.

Each flip is decoded by the format's own library (`sw_audit.checkpoint.stored_bits`), and the scalars that it
changes are set to what comes out, as arms of one pass: all on the first tokens, or on a quarter of them where no
scalar moves by a sixteenth. What costs half of what counts goes on, the costliest to the end of the text. Bits
that make the same of a model are measured once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.parameters import ModelParameter, name_parameters
from sw_audit.checkpoint.stored_bits import MOST_CHANGED, Flip, StoredModel, UnplacedError
from sw_audit.corpus.looks import plan_looks
from sw_audit.corpus.windows import Windows
from sw_audit.critical.search import MOST_TOKENS
from sw_audit.critical.trials import Trial, Trials, Tried
from sw_audit.errors import CheckpointError
from sw_audit.progress import Progress, ignore_progress, tell_stage
from sw_audit.record.address import ScalarAddress
from sw_audit.record.bits import BitSheet, FlippedBit, UnplacedScalar, rank_bits

SCALARS = 8
"""Of so many scalars every bit is flipped, where nobody says."""
WORST = 32
"""So many of the costliest bits are measured on the whole text."""
_SMALL = 1 / 16
"""What moves every scalar by less, relative to what it was, is tried on a quarter of the first step."""


@dataclass(frozen=True)
class _Bit:
    scalar: Tried
    flip: Flip
    trial: Trial | None
    """`None` where there is nothing to measure: something is not finite, or too many scalars change."""

    @property
    def is_small(self) -> bool:
        return all(
            isinstance(value, float) and abs(value - tried.value) < _SMALL * abs(tried.value)
            for tried, value in self.trial or ()
        )


def measure_bits(
    checkpoint: Checkpoint,
    stored: StoredModel,
    scalars: Sequence[ScalarAddress],
    windows: Windows,
    *,
    text: str,
    own_text: bool = False,
    confidence: float = 0.95,
    minimum_ratio: float = 1.2,
    minimum_windows: int = 4,
    most_tokens: int | None = MOST_TOKENS,
    progress: Progress = ignore_progress,
) -> BitSheet:
    """Flip every bit of some scalars, and of what they are decoded with, and measure what each does.

    Args:
        checkpoint: The model; bit-identical afterwards.
        stored: Its files, which are only read.
        scalars: Of which parameters, and where.
        windows: The text.
        text: What it is called.
        own_text: Whether the model wrote it.
        confidence: Of all intervals together.
        minimum_ratio: What counts: at least so many times the perplexity.
        minimum_windows: With fewer windows there is no interval.
        most_tokens: Of the text so many tokens are used at most; `None` for all.
        progress: Told where the work stands.

    Raises:
        CheckpointError: If the model has no such scalar.
    """
    parameters = name_parameters(checkpoint)
    list_bits, bits, unplaced = _Lister(stored), list[_Bit](), list[UnplacedScalar]()
    for number, address in enumerate(scalars):
        if (parameter := parameters.get(address.parameter)) is None:
            found = "the model has no parameter of that name"
            raise CheckpointError(f"scalar {address}", found, "name one of its own, such as model.norm.weight[17]")
        progress("flipping bits", number, len(scalars))
        try:
            bits += list_bits(parameter, address)
        except UnplacedError as error:
            unplaced.append(UnplacedScalar(scalar=address, because=str(error)))
    progress("flipping bits", len(scalars), len(scalars))
    count, length = windows.token_ids.shape
    looks = plan_looks(count, length, 0, minimum_windows)
    steps = [look.windows for look in looks if most_tokens is None or look.windows * length <= most_tokens]
    steps = steps or [looks[0].windows]
    trials = Trials(checkpoint, windows, tell_stage(progress, "measuring flipped bits"))
    _measure(trials, bits, steps, math.log(minimum_ratio))
    each = 1 - (1 - confidence) / max(1, trials.questions * len(steps))
    told = tuple(_tell(bit, trials, each, minimum_windows) for bit in bits)
    return BitSheet(
        model=checkpoint.identity.source,
        scalars=tuple(scalars),
        bits=rank_bits(told),
        unplaced=tuple(unplaced),
        text=text,
        own_text=own_text,
        window=length,
        windows=steps[-1],
        confidence=confidence,
        questions=trials.questions,
        tokens=trials.tokens,
        notes=tuple(_list_notes(told, scalars, parameters.values())),
    )


@dataclass
class _Lister:
    """Lists the bits of scalars; each scalar that changes is one object, so that equal trials are equal."""

    stored: StoredModel
    known: dict[ScalarAddress, Tried] = field(default_factory=dict)

    def __call__(self, parameter: ModelParameter, address: ScalarAddress) -> Iterable[_Bit]:
        index = address.index
        scalar = self._note(parameter, index)
        found = []
        for unit in self.stored.find_units(parameter, index):
            for flip in self.stored.list_flips(parameter, index, unit):
                if flip is not None:
                    found.append(_Bit(scalar, flip, self._make_trial(parameter, flip)))
        return found

    def _make_trial(self, parameter: ModelParameter, flip: Flip) -> Trial | None:
        if not flip.finite or not flip.values:
            return None
        return frozenset((self._note(parameter, index), value) for index, value in flip.values.items())

    def _note(self, parameter: ModelParameter, index: tuple[int, ...]) -> Tried:
        address = ScalarAddress(parameter=parameter.name, index=index)
        if address not in self.known:
            self.known[address] = Tried(parameter, index, parameter.read(index))
        return self.known[address]


def _measure(trials: Trials, bits: Sequence[_Bit], steps: Sequence[int], worth: float) -> None:
    asked = {bit.trial: bit.is_small for bit in bits if bit.trial is not None}
    trials.measure([trial for trial, small in asked.items() if small], max(1, steps[0] // 4))
    costly = [trial for trial, small in asked.items() if not small or abs(trials.cost(trial)) >= worth / 2]
    for step in steps:
        trials.measure(costly, step)
        costly = [trial for trial in costly if abs(trials.cost(trial)) >= worth / 2]
        costly = sorted(costly, key=trials.cost, reverse=True)[:WORST]


def _tell(bit: _Bit, trials: Trials, confidence: float, minimum: int) -> FlippedBit:
    unit, number, meaning = bit.flip.unit, bit.flip.number, bit.flip.meaning
    return FlippedBit(
        scalar=bit.scalar.address,
        tensor=unit.tensor,
        dtype=unit.dtype,
        file=unit.file,
        offset=unit.offset + number // 8,
        bit=number % 8,
        part=meaning.part,
        kind=meaning.kind,
        place=meaning.place,
        byte=unit.data[number // 8],
        before=bit.scalar.value,
        after=bit.flip.after if math.isfinite(bit.flip.after) else None,
        changed=bit.flip.changed,
        finite=bit.flip.finite,
        effect=None if bit.trial is None else trials.effect(bit.trial, confidence, minimum=minimum),
    )


def _list_notes(
    bits: Sequence[FlippedBit], scalars: Sequence[ScalarAddress], parameters: Iterable[ModelParameter]
) -> Iterable[str]:
    names = {scalar.parameter for scalar in scalars}
    for parameter in {one.name: one for one in parameters if one.name in names and one.names}.values():
        yield f"{parameter.name} is {', '.join(parameter.names)} as well: a bit of it changes both."
    if any(bit.finite and bit.effect is None for bit in bits):
        yield f"Bits that change more than {MOST_CHANGED:,} scalars were not measured."
