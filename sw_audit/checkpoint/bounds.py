"""Counts of a configuration, held against the tensors in the files before anything so large is made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.headers import TensorHeader
from sw_audit.errors import BrokenWeightsError

_REPEATED = re.compile(r"n_layers?|num_(?:\w+_)?layers|(?:en|de)coder_layers|depth|attention_types|block_count")
_WIDTH = re.compile(
    r"n_(?:embd|inner|head|positions)|d_model|(?:\w+_)?(?:size|dim|rank|heads|experts)"
    r"|(?:embedding|feed_forward|key|value)_length|head_count(?:_kv)?|expert_count"
)
_POSITIONS = re.compile(r"max_(?:position_embeddings|seq_len|sequence_length)|n_(?:positions|ctx)|context_length")
# Each of these makes tensors of its own, and the files hold a row for every one.
_ADAPTER = re.compile(r"r")
_EXPERTS = re.compile(r"(?:moe_)?num_(?:local_)?experts|n_routed_experts|expert_count")
_CHOSEN = re.compile(r"num_experts_per_tok(?:en)?|top_k_experts|moe_(?:k|topk)|expert_used_count")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_TABLE = re.compile(r"wpe|embed_positions|position_embeddings?")
# Beyond these a skeleton takes too long or too much memory. Below them what does not agree is told by name and
# shape, once there is a skeleton: up to so many times what the files hold (words of 32 bits hold 16 codes), and
# widths that cost nothing without data.
_TIMES_LAYERS, _TIMES_WIDTH, _FREE_WIDTH = 4, 16, 1 << 20
# Seven times the longest context of a published model; nothing is made of it unless positions are a table.
_MOST_POSITIONS = 1 << 26


def refuse_excess(folder: CheckpointFolder, headers: Mapping[str, TensorHeader]) -> None:
    """Raise BrokenWeightsError where a configuration asks for more than there is, by the files or by itself."""
    if not headers:
        return
    layers = len({number for name in headers for number in _NUMBER.findall(name)}) or len(headers)
    widest = max((size for header in headers.values() for size in header.shape), default=1)
    where, counts = folder.format.read_counts(folder)
    tables = [max(header.shape, default=1) for name, header in headers.items() if _TABLE.search(name)]
    if any(isinstance(part, Mapping) and "model_type" in part for part in counts.values()):
        tables = []  # of a model of several parts, it may be the part that sees images that has them
    positions = _TIMES_LAYERS * max(tables) if tables else _MOST_POSITIONS
    width = max(_FREE_WIDTH, _TIMES_WIDTH * widest)
    bounds = (
        (_REPEATED, _TIMES_LAYERS * layers, f"the tensors have {layers} numbers in their names"),
        (_POSITIONS, positions, f"the files hold {max(tables)} positions" if tables else "no model takes as many"),
        (_WIDTH, width, f"the widest tensor has {widest} entries a side"),
        (_ADAPTER, widest, f"the widest tensor has {widest} entries a side"),
    )
    for key, count in _list_counts(counts):
        for names, most, held in bounds:
            if names.fullmatch(key) and count > most:
                # Hundreds of digits say no more than that there are too many.
                said = str(count) if count < 10**18 else "a number of more than 18 digits"
                raise _refuse(folder, f"{where} says {key} = {said}, and {held}", where)
    for key, chosen, experts in _list_choices(counts):
        # Where there is one expert, or none, nothing is chosen.
        if 1 < experts < chosen:
            raise _refuse(folder, f"{where} says {key} = {chosen}, and there are {experts} experts", where)


def _refuse(folder: CheckpointFolder, found: str, where: str) -> BrokenWeightsError:
    remedy = "compare it with the weights, or download the checkpoint again"
    return BrokenWeightsError(folder.asked, found, remedy, kind="mismatched-tensor", where=where)


def _list_choices(value: Any) -> Iterator[tuple[str, int, int]]:
    """Yield how many experts a token goes to, with its key, and how many there are beside it."""
    if not isinstance(value, Mapping):
        return
    for member in value.values():
        yield from _list_choices(member)
    whole = {str(key): count for key, count in value.items() if type(count) is int}
    experts = max((count for key, count in whole.items() if _EXPERTS.fullmatch(key)), default=0)
    yield from ((key, count, experts) for key, count in whole.items() if _CHOSEN.fullmatch(key))


def _list_counts(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from _list_counts(member, str(name))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for member in value:
            yield from _list_counts(member, key)
    elif isinstance(value, int):
        yield key, value
