"""The settings of a descendant beside its parent's: what changes the computation, and when generation stops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sw_audit.checkpoint.folder import CheckpointFolder, one_line_damage
from sw_audit.checkpoint.headers import FLOATS
from sw_audit.checkpoint.start import apply_rule
from sw_audit.checkpoint.stored import open_stored
from sw_audit.errors import CheckpointError
from sw_audit.files.configuration import (
    Configuration,
    as_ids,
    find_config_effect,
    find_generation_effect,
    read_configuration,
    says,
)
from sw_audit.files.templates import CONVERSATIONS, compare_templates, list_templates
from sw_audit.files.tokenization import (
    Tokenizer,
    compare_tokenizers,
    find_tokenizer,
    list_texts,
    pad_is_wrong,
    quote,
    read_tokenizer,
)
from sw_audit.policy.policy import Policy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.files import ChangedSetting, ComparedSettings, SettingEffect

_PADDING, _STOP, _TIED = "pad_token_id", "eos_token_id", "tie_word_embeddings"
# What rounding to a few bits parts a matrix from itself, relative to its norm.
_ROUNDED = 0.3
_POSITIONS = "max_position_embeddings"


def compare_settings(
    model: CheckpointFolder, parent: CheckpointFolder, policy: Policy, progress: Progress = ignore_progress
) -> ComparedSettings:
    """Compare every setting of a descendant with its parent's, as they take effect.

    What a file leaves out is what its class has by default, so that saving a model again changes nothing. Texts
    are given to both tokenizers, conversations to both chat templates.

    Raises:
        CheckpointError: If the parent's, or this model's configuration, cannot be read, or a package is missing.
    """
    progress("comparing settings", 0, 1)
    ours, theirs = read_configuration(model), read_configuration(parent)
    if (ours.known is None) != (theirs.known is None):  # the defaults of one are unknown
        ours, theirs = (
            side if side.said is not None else read_configuration(folder, raw=True)
            for side, folder in ((ours, model), (theirs, parent))
        )
    its = read_tokenizer(find_tokenizer(parent), theirs.metadata, theirs.rows)
    try:
        mine = read_tokenizer(find_tokenizer(model), ours.metadata, ours.rows)
    except CheckpointError as error:
        if isinstance(error.__cause__, ImportError):
            raise
        unread = ChangedSetting(key="tokenizer", parent="as it should be", value=error.found, effect="input")
        changed = [*_compare_config(ours, theirs, None), *_compare_generation(ours, theirs, None), unread]
        return ComparedSettings(compared=_count(ours, theirs), changed=_sort(changed))
    pair = (mine, its)
    changed = [
        *_compare_config(ours, theirs, pair),
        *_compare_generation(ours, theirs, pair),
        *_compare_metadata(ours, theirs),
        *_compare_length(ours, theirs, pair),
        *compare_tokenizers(mine, its),
        *compare_templates(mine, its),
    ]
    return ComparedSettings(
        compared=_count(ours, theirs),
        changed=_sort(changed),
        texts=len(list_texts(its)),
        conversations=len(CONVERSATIONS) if list_templates(mine) and list_templates(its) else 0,
        notes=tuple(_list_notes(mine, its, parent, policy)),
    )


def _count(ours: Configuration, theirs: Configuration) -> int:
    return len(ours.config.keys() | theirs.config.keys()) + len(ours.generation.keys() | theirs.generation.keys())


def _sort(changed: list[ChangedSetting]) -> tuple[ChangedSetting, ...]:
    return tuple(sorted(changed, key=lambda one: not one.serious))


def _compare_config(
    ours: Configuration, theirs: Configuration, tokenizers: tuple[Tokenizer, Tokenizer] | None
) -> Iterator[ChangedSetting]:
    for key in sorted(ours.config.keys() | theirs.config.keys()):
        if not (says(ours, theirs, key) and says(theirs, ours, key)):
            continue
        # Around nested settings there are others, such as those of what the model sees with.
        if ours.nested != theirs.nested and not (key in ours.config and key in theirs.config):
            continue
        mine, its = ours.config.get(key), theirs.config.get(key)
        if _same(key, mine, its):
            continue
        effect, note = find_config_effect(key, ours, theirs), ""
        if ours.known is None and not mine and not its:
            continue  # what is left out is nothing, as far as anybody can tell
        if effect != "none":
            effect, note = _weigh(key, mine, its, effect, (ours, theirs), tokenizers)
        yield _change(f"config.{key}", mine, its, effect, note)


def _compare_generation(
    ours: Configuration, theirs: Configuration, tokenizers: tuple[Tokenizer, Tokenizer] | None
) -> Iterator[ChangedSetting]:
    if ours.said is not None or theirs.said is not None:
        if says(ours, theirs, _STOP) and says(theirs, ours, _STOP):
            yield from _compare_stops(ours, theirs)
        return
    if ours.unread:
        yield ChangedSetting(key="generation_config", parent=None, value=ours.unread, effect="stopping")
    for key in sorted(ours.generation.keys() | theirs.generation.keys()):
        mine, its = ours.generation.get(key), theirs.generation.get(key)
        if _same(key, mine, its):
            continue
        effect, note = find_generation_effect(key), ""
        if key == _STOP and tokenizers is not None:
            own = {side.find_id("eos") for side in tokenizers}
            if as_ids(its) < as_ids(mine) and as_ids(mine) - as_ids(its) == own:
                effect, note = "none", "the tokenizer's own was added, as trainers do"
        elif effect == "input":
            effect, note = _weigh(key, mine, its, effect, (ours, theirs), tokenizers)
        if not ours.has_generation and effect != "none":
            note = note or "there is no generation_config.json here"
        yield _change(f"generation_config.{key}", mine, its, effect, note)


def _compare_stops(ours: Configuration, theirs: Configuration) -> Iterator[ChangedSetting]:
    """A GGUF file has one token that ends a text; it has to be one of the other's."""
    mine, its = ours.stops, theirs.stops
    if mine != its and not (mine & its):
        yield _change("generation_config.eos_token_id", sorted(mine), sorted(its), "stopping", "")


def _weigh(
    key: str,
    mine: Any,
    its: Any,
    effect: SettingEffect,
    sides: tuple[Configuration, Configuration],
    tokenizers: tuple[Tokenizer, Tokenizer] | None,
) -> tuple[SettingEffect, str]:
    """Say what a difference decides after all, and what follows from it."""
    ours, theirs = sides
    if key == _POSITIONS and isinstance(mine, int) and isinstance(its, int) and mine < its:
        return effect, f"no window of this audit, and of either model, has more than {mine} tokens"
    if key == "model_type" and (ours.said is None) != (theirs.said is None):
        return "none", "llama.cpp has names of its own"
    if key == _TIED:
        return _weigh_tying(ours, theirs, effect)
    if key == "vocab_size" and isinstance(mine, int) and isinstance(its, int):
        used = tokenizers and max(tokenizers[1].vocabulary.values(), default=0)
        return ("none", "rows that no token of the parent needs") if mine > (used or its) else (effect, "")
    if key == _PADDING and tokenizers is not None:
        wrong = pad_is_wrong(mine if isinstance(mine, int) else None, tokenizers[0])
        return ("input", wrong) if wrong else ("none", "")
    if key in ("bos_token_id", _STOP) and tokenizers is not None:
        if ours.said is not None or theirs.said is not None:
            shared = as_ids(mine) & as_ids(its) or (
                ours.stops & theirs.stops if key == _STOP else None in (mine, its)
            )
            return ("none", "") if shared else (effect, "")
        own, parents = (side.find_id(key.removesuffix("_token_id")) for side in tokenizers)
        # Trainers write the tokenizer's own into the configuration, which nothing reads while there is another.
        aligned = own == parents and as_ids(mine) == as_ids(own) and (key != _STOP or ours.has_generation)
        if aligned:
            return "none", "the tokenizer's own"
    return effect, ""


def _weigh_tying(ours: Configuration, theirs: Configuration, effect: SettingEffect) -> tuple[SettingEffect, str]:
    """Whether one matrix serves as embedding and head says nothing where two that are stored are one."""
    if ours.said is not None or theirs.said is not None:
        return "none", "a GGUF file may store one matrix in two types"
    untied = theirs if ours.config.get(_TIED) else ours
    with one_line_damage(untied.folder):
        stored = open_stored(untied.folder)
        shape = (untied.config.get("vocab_size"), untied.config.get("hidden_size"))
        names = [
            name for name, header in stored.headers.items() if header.shape == shape and header.dtype in FLOATS
        ]
        matrices = [matrix for name in names if (matrix := stored.read(name)) is not None]
    if len(matrices) < 2:  # embedding and head
        # A head in codes of its own is what it is made of an embedding.
        return ("none", "its head is stored in another form") if untied is ours else (effect, "")
    first, second = (matrix.float() for matrix in matrices[:2])
    apart = float((first - second).norm() / first.norm().clamp(min=1e-30))
    # Rounding parts them a little; what is tied anew has to be one to begin with.
    agree = apart <= _ROUNDED if untied is ours else apart == 0
    return ("none", "both matrices agree") if agree else (effect, f"both matrices are {apart:.3g} apart")


def _compare_metadata(ours: Configuration, theirs: Configuration) -> Iterator[ChangedSetting]:
    """Compare what two GGUF files say that no key of transformers stands for."""
    if ours.said is None or theirs.said is None:
        return
    told = ("tokenizer.chat_template", "tokenizer.ggml.tokens", "tokenizer.ggml.merges")
    for key in sorted(ours.metadata.keys() | theirs.metadata.keys()):
        mine, its = ours.metadata.get(key), theirs.metadata.get(key)
        if key.startswith(told) or key.endswith("_token_id") or _same(key, mine, its):
            continue
        # Converters add keys for what was understood before.
        serious = mine is not None and its is not None
        effect: SettingEffect = "none"
        if serious:
            effect = "input" if key.startswith("tokenizer.") else "computation"
        yield _change(f"gguf.{key}", mine, its, effect, "")


def _compare_length(
    ours: Configuration, theirs: Configuration, tokenizers: tuple[Tokenizer, Tokenizer]
) -> Iterator[ChangedSetting]:
    """A tokenizer's longest text counts where it is shorter than the model's."""
    if any(side.metadata for side in tokenizers):
        return
    mine, its = (getattr(side.tokenizer, "model_max_length", None) for side in tokenizers)
    if mine == its or not isinstance(mine, int | float) or not isinstance(its, int | float):
        return
    least = [min(value, side.config.get(_POSITIONS) or value) for value, side in ((mine, ours), (its, theirs))]
    shorter = least[0] < least[1] and mine < its
    note = f"texts are cut after {least[0]:g} tokens where they are to be cut" if shorter else ""
    yield _change("tokenizer_config.model_max_length", mine, its, "input" if shorter else "none", note)


def _same(key: str, mine: Any, its: Any) -> bool:
    if key.endswith(_STOP):
        return as_ids(mine) == as_ids(its)
    if isinstance(mine, float) or isinstance(its, float):
        # The formats' numbers have seven digits.
        numbers = all(isinstance(one, int | float) for one in (mine, its))
        return numbers and bool(np.float32(mine) == np.float32(its))
    if isinstance(mine, Mapping | list | tuple) or isinstance(its, Mapping | list | tuple):
        return quote(mine or None, 10**9) == quote(its or None, 10**9)
    return bool(mine == its)


def _change(key: str, mine: Any, its: Any, effect: SettingEffect, note: str) -> ChangedSetting:
    return ChangedSetting(
        key=key,
        parent=None if its is None else quote(its),
        value=None if mine is None else quote(mine),
        effect=effect,
        note=note,
    )


def _list_notes(mine: Tokenizer, its: Tokenizer, parent: CheckpointFolder, policy: Policy) -> Iterator[str]:
    """Say where the audit puts BOS and the model's own files do not, or the other way round."""
    try:
        start = apply_rule(its.start, policy.bos_rule(parent.policy), parent.asked)
    except CheckpointError:
        return  # opening complains of it
    if start.token is None:
        return
    does = start.bos is not None
    words = {True: "puts BOS before every text", False: "puts no BOS before a text"}
    others = [
        name for name, side in (("this model's", mine), ("the parent's", its)) if side.start.automatic != does
    ]
    if others:
        whose = " and ".join(others)
        verb = "do not" if does else "do"
        yield f"The audit {words[does]}, and {whose} files {verb}: it measures another input than users send."
