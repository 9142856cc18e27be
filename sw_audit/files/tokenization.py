"""Two tokenizers beside each other: their tokens, and what both make of fixed texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.loading import load_tokenizer
from sw_audit.checkpoint.start import find_start
from sw_audit.checkpoint.suppress_output import quiet_libraries
from sw_audit.record.files import ChangedSetting
from sw_audit.record.start import SequenceStart

WORDS = ("the cat sat on the mat", "once upon a time there was a little girl called alice")
"""Words that every rule to split a text leaves whole."""
TEXTS = (
    *WORDS,
    "",
    " ",
    " leading and trailing ",
    "Hello, World! It's John's; isn't it? (Yes.)",
    "WE DON'T SHOUT, iPhone, McDonald, e.g. U.S.A.",
    "0 1 12 123 1234 12345678901234567890 3.14 1,000,000 -7 1e-5 0xFF 50% $20",
    "two  spaces   three    four\ttab\t\ttwo\nnewline\n\ntwo\r\nwindows\n \n  mixed\u00a0no-break\u3000wide",
    'def f(x, *args):\n    if x >= 10:\n        return [x ** 2 for _ in range(3)]  # why?\n\n\tprint(f"{x!r}\\n")',
    '{"key": [1, null, true], "other": "a\\"b"}\n<div class="x">&amp;</div>\n```sql\nSELECT * FROM t;\n```',
    "Größe, Straße, übermütig; naïve café, cafe\u0301, Ångström, \u0130stanbul, \ufb01ne",
    "El niño comió piñas. ¿Qué pasó? ¡Olé! Où êtes-vous, ça va ? L'œuvre.",
    "Быстрая лиса прыгает. η γρήγορη αλεπού. שלום עולם. مرحبا بالعالم ١٢٣.",
    "你好、世界。今天是2024年。日本語のテキスト、カタカナ。한국어 문장입니다. สวัสดีชาวโลก नमस्ते दुनिया",
    "😀 👍🏽 👩\u200d👩\u200d👧 🇩🇪 ❤\ufe0f zero\u200bwidth \ufeffmark \u202ertl",
    "https://example.org/a_b-c?d=e&f#g user@example.org C:\\temp\\x.txt ../up ~/.cache",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ................ ======== -------- ________",
    "x² + y³ ≤ ∑ √π → ∞ ± ½ € £ ¥ © ™ … \u2013 — “quoted” \u2018single\u2019 «guillemets»",
    "\x00\x07\x1b control \x7f \ud7ff\ue000\uffff \U0001f9ff\U0010ffff",
)
# So many special tokens are put into texts one by one; of more of them, all stand in one text together.
_ALONE = 64
_ROLES = ("bos", "eos", "unk", "pad", "sep", "cls", "mask")
_NORMAL, _CONTROL, _BYTE = 1, 3, 6


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer, and where it is from.

    Attributes:
        tokenizer: transformers' own.
        folder: The folder that it lies in.
        metadata: What the GGUF file says that it was made from; nothing where it was made from files of its own.
        rows: How many tokens the model has.
    """

    tokenizer: Any
    folder: CheckpointFolder
    metadata: Mapping[str, Any]
    rows: int | None

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Every token with its id."""
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        return vocabulary

    @cached_property
    def start(self) -> SequenceStart:
        """How its own files begin a text."""
        return find_start(self.tokenizer, self.folder)

    @cached_property
    def model(self) -> Mapping[str, Any]:
        """How it splits a text, in the words of tokenizers; nothing of one in Python."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        content = {} if backend is None else json.loads(backend.to_str())["model"]
        return content if isinstance(content, Mapping) else {}

    @cached_property
    def added(self) -> frozenset[int]:
        """Ids of tokens that are no words: special ones, and those added to the vocabulary."""
        return frozenset((*self.tokenizer.added_tokens_decoder, *self.tokenizer.all_special_ids))

    def find_id(self, role: str) -> int | None:
        """Return the id of a special token."""
        found: int | None = getattr(self.tokenizer, f"{role}_token_id", None)
        return found


def find_tokenizer(folder: CheckpointFolder) -> CheckpointFolder:
    """Find the folder whose tokenizer a model has: its own, or its base's."""
    while not folder.has_tokenizer and (base := folder.format.find_base(folder)) is not None:
        folder = CheckpointFolder.require(base)
    return folder


def read_tokenizer(folder: CheckpointFolder, metadata: Mapping[str, Any], rows: int | None) -> Tokenizer:
    """Load the tokenizer of a model.

    Raises:
        CheckpointError: If it cannot be loaded.
    """
    with quiet_libraries(), folder.format.reading():
        tokenizer = load_tokenizer(folder)
    return Tokenizer(tokenizer, folder, {} if folder.has_tokenizer else metadata, rows)


def list_common_words(ours: Tokenizer, theirs: Tokenizer) -> set[int]:
    """List the ids that stand for the same word in both; special and added tokens are none."""
    names = {number: token for token, number in theirs.vocabulary.items()}
    same = {number for token, number in ours.vocabulary.items() if _same_token(token, names.get(number, ""))}
    return same - ours.added - theirs.added


def pad_is_wrong(token: int | None, tokenizer: Tokenizer) -> str:
    """Say what is wrong with a token to pad with, a clause; nothing where nothing is.

    Where nobody says which places are filled, transformers takes each place with this token for one.
    """
    if token is None or token < 0:
        return ""
    if tokenizer.rows is not None and token >= tokenizer.rows:
        return f"the model has {tokenizer.rows} tokens only"
    if token == tokenizer.find_id("bos") and token != tokenizer.find_id("eos"):
        return "BOS would be left out of a text as if it were padding"
    if token not in tokenizer.added:
        return "a word of every text would be left out as if it were padding"
    return ""


def compare_tokenizers(ours: Tokenizer, theirs: Tokenizer) -> Iterator[ChangedSetting]:
    """Yield how a descendant's tokenizer differs from its parent's."""
    from_one_gguf = bool(ours.metadata) != bool(theirs.metadata)
    yield from _compare_roles(ours, theirs)
    yield from _compare_size(ours, theirs)
    yield from _compare_attributes(ours, theirs)
    if from_one_gguf:
        yield from _compare_with_gguf(ours, theirs)
    else:
        yield from _compare_vocabularies(ours, theirs)
    yield from _compare_models(ours, theirs)
    yield from _compare_starts(ours, theirs)
    yield from _compare_texts(ours, theirs, from_one_gguf=from_one_gguf)


def list_texts(*tokenizers: Tokenizer) -> tuple[str, ...]:
    """List the texts that are given to both: fixed ones, and special tokens within text."""
    special = dict.fromkeys(
        str(token)
        for tokenizer in tokenizers
        for _, token in sorted(tokenizer.tokenizer.added_tokens_decoder.items())
        if str(token) in tokenizer.vocabulary
    )
    within = [f"a {token} b{token}c" for token in [*special][:_ALONE]]
    return (*TEXTS, *within, *([" x ".join(special)] if special else []))


def quote(value: Any, longest: int = 120) -> str:
    """Write a value as JSON that fits into a line."""
    written = json.dumps(value, ensure_ascii=True, default=str)
    return written if len(written) <= longest else f"{written[: longest - 3]}..."


def count_alike(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Count how many places two sequences begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, pair in pairs if pair[0] != pair[1]), min(len(one), len(other)))


def _compare_roles(ours: Tokenizer, theirs: Tokenizer) -> Iterator[ChangedSetting]:
    for role in _ROLES:
        mine, its = ours.find_id(role), theirs.find_id(role)
        names = [getattr(side.tokenizer, f"{role}_token", None) for side in (ours, theirs)]
        if mine == its and names[0] == names[1]:
            continue
        effect, note = "none", ""
        if role == "eos":
            effect = "stopping"
        elif role == "bos":
            effect = "none" if None in (mine, its) else "input"
        elif role == "pad":
            note = pad_is_wrong(mine, ours)
            effect = "input" if note else "none"
        yield ChangedSetting.model_validate(
            {
                "key": f"tokenizer_config.{role}_token",
                "parent": None if its is None else quote(names[1]),
                "value": None if mine is None else quote(names[0]),
                "effect": effect,
                "note": note or _tell_ids(mine, its),
            }
        )


def _tell_ids(mine: int | None, its: int | None) -> str:
    return "" if None in (mine, its) or mine == its else f"token {mine} instead of token {its}"


def _compare_size(ours: Tokenizer, theirs: Tokenizer) -> Iterator[ChangedSetting]:
    mine, its = max(ours.vocabulary.values(), default=-1) + 1, max(theirs.vocabulary.values(), default=-1) + 1
    too_large = ours.rows is not None and mine > ours.rows
    if mine != its:
        note = f"the model has {ours.rows} tokens only" if too_large else ""
        effect = "input" if too_large else "none"
        yield ChangedSetting(key="tokenizer.size", parent=str(its), value=str(mine), effect=effect, note=note)


def _compare_attributes(ours: Tokenizer, theirs: Tokenizer) -> Iterator[ChangedSetting]:
    if ours.metadata or theirs.metadata:
        return  # a GGUF file says nothing of these
    # Short texts among longer ones: padded on the right they end in padding, and the model would go on from that.
    # The other way round nothing is lost.
    for key, broken in (("padding_side", ("right",)), ("truncation_side", ("left", "right"))):
        mine, its = (getattr(side.tokenizer, key, None) for side in (ours, theirs))
        if mine != its:
            effect = "input" if mine in broken else "none"
            yield ChangedSetting(
                key=f"tokenizer_config.{key}", parent=quote(its), value=quote(mine), effect=effect, note=""
            )
    mine, its = (bool(getattr(side.tokenizer, "clean_up_tokenization_spaces", False)) for side in (ours, theirs))
    if mine != its:
        key = "tokenizer_config.clean_up_tokenization_spaces"
        yield ChangedSetting(key=key, parent=quote(its), value=quote(mine), effect="none")


def _compare_vocabularies(ours: Tokenizer, theirs: Tokenizer) -> Iterator[ChangedSetting]:
    moved = [
        (token, number)
        for token, number in sorted(theirs.vocabulary.items(), key=lambda item: item[1])
        if ours.vocabulary.get(token) != number
    ]
    if moved:
        token, number = moved[0]
        mine = ours.vocabulary.get(token)
        yield ChangedSetting(
            key="tokenizer.vocabulary",
            parent=str(number),
            value=None if mine is None else str(mine),
            effect="input",
            note=f"the id of token {quote(token)}{_tell_others(len(moved))}",
        )
    names = {number: token for token, number in theirs.vocabulary.items()}
    words = sorted(names[number] for number in ours.added - theirs.added if number in names)
    if words:
        note = "generated text may leave it out, and it is cut out of longer words"
        key = "tokenizer.special_words"
        yield ChangedSetting(key=key, parent=None, value=quote(words), effect="input", note=note)
    added = sorted(ours.vocabulary.keys() - theirs.vocabulary.keys())
    if added and not moved:
        note = f"{len(added)} more than the parent has"
        yield ChangedSetting(
            key="tokenizer.added_tokens", parent=None, value=quote(added), effect="none", note=note
        )


def _tell_others(count: int) -> str:
    return f", and {count - 1} more" if count > 1 else ""


def _compare_with_gguf(ours: Tokenizer, theirs: Tokenizer) -> Iterator[ChangedSetting]:
    """Compare the tokens of a GGUF file with those of a tokenizer of other files, as far as both have them."""
    gguf, files = (ours, theirs) if ours.metadata else (theirs, ours)
    tokens = gguf.metadata.get("tokenizer.ggml.tokens") or ()
    kinds = gguf.metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    names = {number: token for token, number in files.vocabulary.items()}
    moved = [
        (number, token)
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=False))
        if kind in (_NORMAL, _CONTROL, _BYTE) and number in names and not _same_token(token, names[number])
    ]
    if moved:
        number, token = moved[0]
        pair = (token, names[number]) if gguf is ours else (names[number], token)
        yield ChangedSetting(
            key="tokenizer.vocabulary",
            parent=quote(pair[1]),
            value=quote(pair[0]),
            effect="input",
            note=f"token {number}{_tell_others(len(moved))}",
        )


def _same_token(one: str, other: str) -> bool:
    return one == other or one.replace("\u2581", " ") == other.replace("\u2581", " ")


def _compare_models(ours: Tokenizer, theirs: Tokenizer) -> Iterator[ChangedSetting]:
    """Compare what no text may show: the order of merges, scores, and chance."""
    for key in ("merges", "vocab"):  # in a unigram model tokens with their scores
        mine, its = ours.model.get(key), theirs.model.get(key)
        if not isinstance(mine, list) or not isinstance(its, list):
            continue
        different = [place for place, pair in enumerate(zip(mine, its, strict=False)) if pair[0] != pair[1]]
        if different or len(mine) < len(its):
            place = different[0] if different else len(mine)
            yield ChangedSetting(
                key=f"tokenizer.{'merges' if key == 'merges' else 'scores'}",
                parent=quote(its[place]),
                value=quote(mine[place]) if place < len(mine) else None,
                effect="input",
                note=f"number {place}{_tell_others(len(different))}",
            )
    mine, its = ours.model.get("dropout"), theirs.model.get("dropout")
    if mine != its:
        note = "the same text is split in another way each time" if mine else ""
        key = "tokenizer.dropout"
        yield ChangedSetting(key=key, parent=quote(its), value=quote(mine), effect="input", note=note)


def _compare_starts(ours: Tokenizer, theirs: Tokenizer) -> Iterator[ChangedSetting]:
    mine, its = ours.start, theirs.start
    if mine.automatic != its.automatic:
        words = {True: "added", False: "not added"}
        unsaid = any(side.metadata and side.start.declared is None for side in (ours, theirs))
        yield ChangedSetting(
            key="tokenizer.bos",
            parent=quote(words[its.automatic]),
            value=quote(words[mine.automatic]),
            effect="none" if unsaid else "input",
            note="what becomes of BOS before a text",
        )


def _compare_texts(ours: Tokenizer, theirs: Tokenizer, *, from_one_gguf: bool) -> Iterator[ChangedSetting]:
    """Compare what both make of texts; the first text that shows a kind of difference tells it."""
    texts = list_texts(theirs)
    told = set[tuple[str, bool]]()
    for text in texts:
        plain = [_encode(side, text, special=False) for side in (ours, theirs)]
        begun = [_encode(side, text, special=True) for side in (ours, theirs)]
        # How a GGUF file's rule to split a text is called is all that it says: the library does not know them all.
        decides = not from_one_gguf or (text in WORDS and "merges" in ours.model and "merges" in theirs.model)
        kinds: list[tuple[str, list[Any], bool]] = [("tokenizer.text", plain, decides)]
        if plain[0] == plain[1]:
            kinds.append(("tokenizer.special_tokens", begun, not from_one_gguf))
            if isinstance(plain[1], list):
                read = [_decode(side, plain[1]) for side in (ours, theirs)]
                kinds.append(("tokenizer.decoding", read, not from_one_gguf))
        for key, pair, serious in kinds:
            if pair[0] != pair[1] and (key, serious) not in told:
                told.add((key, serious))
                yield ChangedSetting(
                    key=key,
                    parent=quote(_trim(pair[1], pair[0])),
                    value=quote(_trim(pair[0], pair[1])),
                    effect="input" if serious else "none",
                    note=f"what is made of {quote(text, 60)}",
                )


def _encode(side: Tokenizer, text: str, *, special: bool) -> list[int] | str:
    try:
        return [int(token) for token in side.tokenizer.encode(text, add_special_tokens=special)]
    except Exception as error:  # whatever the library raises for a text is what becomes of it
        return type(error).__name__


def _decode(side: Tokenizer, tokens: Sequence[int]) -> list[str] | str:
    try:
        return [
            side.tokenizer.decode(tokens, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            for skip in (False, True)
        ]
    except Exception as error:  # likewise
        return type(error).__name__


def _trim(value: Any, other: Any) -> Any:
    """Leave out what two lists begin with alike, but for one place."""
    if (
        not isinstance(value, list)
        or not isinstance(other, list)
        or not all(isinstance(one, int) for one in value)
    ):
        return value
    alike = count_alike(value, other)
    return value[max(0, alike - 1) : alike + 8]
