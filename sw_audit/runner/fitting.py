"""How much memory the audit of a model takes, told from headers, and how many models fit into it at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate

from sw_audit.checkpoint.budget import choose_opening, find_need
from sw_audit.checkpoint.stored import Size, size_checkpoint
from sw_audit.checks.arms import ArmTargets
from sw_audit.checks.judging import list_measured
from sw_audit.checks.plan import plan_arms, plan_needs
from sw_audit.checks.registry import Need
from sw_audit.corpus.text import BUILT_IN, MANY_WINDOWS, read_corpus
from sw_audit.errors import AuditError
from sw_audit.memory import write_memory
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.policy import CorpusPolicy, Policy
from sw_audit.policy.scheme import ActivationSetup
from sw_audit.record.address import WeightAddress
from sw_audit.runner.assignments import Assignment
from sw_audit.runner.text import settle_corpus
from sw_audit.specimen.shipped import find_shipped

PROGRAM = 440_000_000
"""Bytes that a process takes once Python, torch and transformers are there, before any model is."""

_LONGEST_WINDOW = 2048


_BATCH = 1 << 12
_CHANNELS = 1 << 22
_LOGITS = 1 << 22
"""Tokens, channels and logits that a layer or a head gives at once, at most; see `measure/readers.py`."""
_TENSORS = 5
"""Tensors as wide as the MLP, or the logits, that are there at once while a batch passes."""
_BYTES_PER_CALIBRATED = 24
"""A channel of a token that is calibrated on: as it is, in float32, in float64, and what the MLP makes of it."""
_CODE = 47_000_000
"""Code and tables of libraries that are loaded when they are first used, after the model was opened; measured."""
_BYTES_PER_SCORE = 8
"""A scalar's gradient and its score, both float32; see `critical/gradients.py`."""


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that the audit of a model takes at once, at most.

    Attributes:
        weights: Of weights, those of a parent beside it too.
        streams: Of the hidden states of all arms that are in memory.
        work: Of what passes a layer or the head, and of gradients.
        spilled: Of the hidden states of all arms that are on disk.
        streamed: Whether each decoder layer is in memory only while it is used.
    """

    weights: int
    streams: int
    work: int = 0
    spilled: int = 0
    streamed: bool = False

    @property
    def total(self) -> int:
        """All that is in memory."""
        return self.weights + self.streams + self.work


def memory_needed(policy: Policy, model: ModelPolicy) -> int | None:
    """Return the bytes that the audit of a model takes at once, at most, beside the program's own (`PROGRAM`).

    A budget of memory is held. Nothing is fetched and no weight is read. `None` as long as not all files are here.

    Raises:
        CheckpointError: If a model or its parent is not there, or damaged.
    """
    need = estimate_memory(policy, model)
    if need is None:
        return None
    return need.total if policy.memory is None else min(need.total, policy.memory)


def estimate_memory(policy: Policy, model: ModelPolicy) -> MemoryNeed | None:
    """Say what the audit of a model takes; see `memory_needed`."""
    parent, checks = policy.find_parent(model), list_measured(policy, model)
    local = model.model_copy(update={"source": find_shipped(model.source), "manifest": None})
    policy = settle_corpus(policy, local)
    size = size_checkpoint(local)
    above = size_checkpoint(parent.model_copy(update={"source": find_shipped(parent.source)})) if parent else None
    if size is None or (parent and above is None):
        return None
    texts = (policy.corpus, *(policy.descent.texts if parent else ()))
    tokens = max(count * window for count, window in (find_windows(text, size) for text in texts))
    states = count_arms(policy, checks, descends=parent is not None) * tokens * (size.hidden or 0) * size.width
    beside = 0 if above is None else find_need(above).beside
    opening = choose_opening(find_need(size), policy.memory, beside)
    if opening.memory is None and not opening.streamed:
        return MemoryNeed(estimate_weights(size, above), states)
    # What enters a layer and what leaves it is there side by side for a while.
    side_by_side = states * 3 // 2
    held = side_by_side if opening.memory is None else min(side_by_side, opening.memory // 2)
    needs, inner = plan_needs(policy, checks, decoder_weights=1), size.inner or 4 * (size.hidden or 1)
    calibrates = parent is None and Need.ACTIVATIONS in needs
    batch = min(_BATCH if calibrates else tokens, _BATCH, _CHANNELS // inner)
    passing = batch * inner * (_BYTES_PER_CALIBRATED if calibrates else _TENSORS * size.width)
    logits = _TENSORS * 4 * min(_LOGITS, tokens * (size.vocabulary or 0))
    gradients = 0
    if opening.streamed and Need.CRITICAL in needs:
        gradients = size.layer // size.width * _BYTES_PER_SCORE
    if opening.memory is not None:
        logits, gradients = min(logits, opening.memory // 4), min(gradients, opening.memory // 2)
    # What is differentiated is another stage than what is measured.
    work = _CODE + max(passing, logits, gradients - held)
    return MemoryNeed(opening.weights + beside, held, work, max(states - held, 0), opening.streamed)


def find_windows(text: CorpusPolicy, size: Size | None) -> tuple[int, int]:
    """Return how many windows of a text are scored at most, and their length in tokens."""
    shipped = read_corpus(text) if text.source in BUILT_IN else None
    count = text.windows or (shipped.natural_windows if shipped else MANY_WINDOWS)
    longest = min(_LONGEST_WINDOW, (size and size.positions) or _LONGEST_WINDOW)
    return count, text.window or min((shipped and shipped.natural_window) or longest, longest)


def count_arms(policy: Policy, checks: list[str], *, descends: bool) -> int:
    """Count the arms that are measured on the first text, with one super weight."""
    if descends:
        return 3  # the parent, the model, and the model with its super weights put back
    some = (WeightAddress(parameter="one", row=0, column=0),)
    needs = plan_needs(policy, checks, decoder_weights=1)
    roles = ArmTargets(
        super_weights=some,
        other_outliers=some if needs.other_outliers else (),
        placebos=dict.fromkeys(needs.placebos, some),
        channels=(0,),
    )
    setup = ActivationSetup(calibration_windows=1) if Need.ACTIVATIONS in needs else None
    return len(plan_arms(policy, checks, roles, setup))


def estimate_weights(size: Size, above: Size | None) -> int:
    """Return the bytes of weights that are in memory at once, at most.

    A model by itself is there whole, with a copy of the largest layer that an arm changes. Of a parent first the
    whole is asked and let go; then one layer of it at a time comes back beside the model.
    """
    own = size.memory + size.layer
    return own if above is None else max(above.memory, own + above.layer)


def find_memory_needed(policy: Policy, model: ModelPolicy) -> int | None:
    """Return what a model takes; `None` where it is not known, also where auditing will complain of files."""
    with suppress(AuditError, OSError):
        return memory_needed(policy, model)
    return None


def list_needs(assignments: Iterable[Assignment]) -> list[int | None]:
    """Return what every model takes; see `find_memory_needed`."""
    return [find_memory_needed(one.policy, model) for one in assignments for model in one.policy.models]


def count_fitting(needs: Iterable[int | None], available: int) -> int:
    """Return how many of some models can be audited at once, each in a process, whichever come together.

    `needs` are what `memory_needed` says of each, `available` the bytes that there are. At least one is tried.
    """
    largest_first = sorted((need or 0 for need in needs), reverse=True)
    sums = accumulate(PROGRAM + need for need in largest_first)
    return max(1, sum(total <= available for total in sums))


def tell_fitting(needs: Sequence[int | None], workers: int, available: int) -> str | None:
    """Say that some models take more memory at once than there is; nothing where they do not."""
    together = min(workers, len(needs))
    fitting = count_fitting(needs, available)
    if fitting >= together:
        return None
    largest = sum(PROGRAM + need for need in sorted((need or 0 for need in needs), reverse=True)[:together])
    return (
        f"{together} models at once may take {write_memory(largest)} of memory, and {write_memory(available)} are "
        f"free: {fitting} at once will fit"
    )
