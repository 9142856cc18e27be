"""Measures a descendant beside its parent: both on one text, and what putting parts of the parent back does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.corpus.protocol import describe_protocol
from sw_audit.corpus.stopwords import list_stop_words, stop_word_ids
from sw_audit.corpus.text import read_corpus
from sw_audit.corpus.windows import Windows, window_corpus
from sw_audit.errors import CheckpointError
from sw_audit.measure.arms import measure_arms
from sw_audit.measure.batches import batch_windows
from sw_audit.measure.layers import LayerNotes
from sw_audit.measure.retention import is_alike, translate_address
from sw_audit.policy.policy import CorpusPolicy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.address import group_addresses
from sw_audit.record.arm import Arm, SetTo, SwapModules
from sw_audit.record.descent import (
    DESCENDANT,
    PARENT,
    RESTORED_WEIGHTS,
    ComparedText,
    LayerError,
    name_restored_module,
)
from sw_audit.record.identity import ModelIdentity
from sw_audit.record.location import SuperWeight
from sw_audit.record.protocol import Protocol


@dataclass(frozen=True, eq=False)
class SharedText:
    """A text that two models are measured on.

    Attributes:
        windows: The text, cut.
        protocol: How it is measured.
        stop_words: Ids of stop words, int64 [ids].
    """

    windows: Windows
    protocol: Protocol
    stop_words: torch.Tensor


def share_text(parent: Checkpoint, descendant: Checkpoint, wanted: CorpusPolicy, seed: int) -> SharedText:
    """Cut a text for two models that are to be compared token by token.

    Args:
        parent: The parent.
        descendant: The descendant.
        wanted: The text.
        seed: Seed of everything that is drawn; part of the protocol.

    Raises:
        CorpusError: If it cannot be read, or is too short.
        CheckpointError: If the two make different tokens of it.
    """
    text = read_corpus(wanted)
    limits = [one for one in (parent.maximum_positions, descendant.maximum_positions) if one is not None]
    ours, theirs = (
        window_corpus(text, one.tokenizer, wanted, min(limits, default=None)) for one in (descendant, parent)
    )
    if not torch.equal(ours.token_ids, theirs.token_ids):
        raise CheckpointError(
            f"model {descendant.identity.source!r} beside its parent {parent.identity.source!r}",
            f"their tokenizers make different tokens of the text {wanted.source!r}",
            "put the parent's tokenizer beside the descendant's weights, or name the model that it was made from",
        )
    return SharedText(
        ours,
        describe_protocol(text, ours, descendant.tokenizer, descendant.identity.dtype, seed),
        stop_word_ids(list_stop_words(wanted), descendant.tokenizer),
    )


def compare_on_text(
    parent: Checkpoint,
    descendant: Checkpoint,
    text: SharedText,
    counterfactuals: Sequence[Arm] = (),
    progress: Progress = ignore_progress,
    *,
    layers: bool = False,
) -> tuple[ComparedText, tuple[LayerError, ...]]:
    """Measure both models on a text, side by side, and the descendant with parts of the parent put back.

    Args:
        parent: The parent; its layers may be in memory only while they run.
        descendant: The descendant; bit-identical afterwards.
        text: The text.
        counterfactuals: What is put back.
        progress: Told after each layer and each batch of logits.
        layers: Whether layers are held against each other, which runs each of the descendant's once more.

    Returns:
        The measurements, and one entry per layer; none if nobody asked or the two are not of one shape.
    """
    notes = LayerNotes(batch_windows(text.windows, max(parent.vocabulary, descendant.vocabulary)))
    measurements = measure_arms(
        descendant,
        [Arm(name=PARENT), Arm(name=DESCENDANT), *counterfactuals],
        text.windows,
        protocol=text.protocol.signature,
        stop_words=text.stop_words,
        parent=parent,
        observer=notes if layers and is_alike(parent, descendant) else None,
        progress=progress,
    )
    return ComparedText(protocol=text.protocol, measurements=measurements), tuple(notes.errors)


def restore_super_weights(
    parent: Checkpoint, descendant: Checkpoint, super_weights: Sequence[SuperWeight]
) -> Arm | None:
    """Return the arm in which the parent's super weights are put back; `None` if it has none of them."""
    found = [(weight, translate_address(parent, descendant, weight.address)) for weight in super_weights]
    acts = tuple(
        SetTo(addresses=group_addresses([address]), value=weight.value)
        for weight, address in found
        if address is not None
    )
    return Arm(name=RESTORED_WEIGHTS, acts=acts) if acts else None


def restore_module(module: str) -> Arm:
    """Return the arm in which one module is the parent's.

    Args:
        module: Its qualified name in the descendant.
    """
    return Arm(name=name_restored_module(module), acts=(SwapModules(modules=(module,)),))


def list_differences(parent: Checkpoint, descendant: Checkpoint, there: ModelIdentity) -> Iterator[str]:
    """Say what a reader should know of two models that are compared.

    Args:
        parent: The parent.
        descendant: The descendant.
        there: Which model the parent is, its digest included.
    """
    here = descendant.identity
    if here.digest and here.digest == there.digest:
        yield "Its weight files are those of its parent, byte for byte: is that what was to be compared?"
    if (here.layers, here.hidden_size) != (there.layers, there.hidden_size):
        yield (
            f"It has {here.layers} layers of width {here.hidden_size}, its parent {there.layers} of width "
            f"{there.hidden_size}: layers and modules are not held against each other."
        )
    if descendant.vocabulary != parent.vocabulary:
        yield (
            f"It knows {descendant.vocabulary} tokens, its parent {parent.vocabulary}: distributions are compared "
            "on the tokens that both know."
        )
    if here.dtype != there.dtype:
        yield f"It was measured in {here.dtype}, its parent in {there.dtype}."
