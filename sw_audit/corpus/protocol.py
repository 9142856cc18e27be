"""How figures were measured, so that only like is compared with like."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sw_audit.corpus.text import SPECIMEN, Text
from sw_audit.corpus.windows import Windows
from sw_audit.policy.model_policy import TRANSFORMERS
from sw_audit.record.identity import Protocol
from sw_audit.record.location import Location
from sw_audit.record.start import BosUse, StartTrial

# The specimen's own vocabulary is smaller, that of a model for real text larger.
_REAL_VOCABULARY = 1000
# Characters at the beginning of a text; and the share of unknown tokens above which a tokenizer is the wrong one.
_SAMPLE = 4000
_MUCH_UNKNOWN = 0.05


def describe_protocol(
    text: Text, windows: Windows, tokenizer: Any, dtype: str, seed: int, engine: str = TRANSFORMERS
) -> Protocol:
    """State what was used: window, stride and BOS as cut, not as asked for."""
    use: BosUse = "absent" if tokenizer.bos_token_id is None else "not added"
    count, window = windows.token_ids.shape
    # The last row may have been shifted back, so the row that moves on most tells the stride.
    moved = [window - first for first in windows.first_scored.tolist()]
    return Protocol(
        corpus=text.identity,
        tokenizer=digest_tokenizer(tokenizer),
        window=window,
        stride=windows.stride or max(moved[1:] or moved),
        windows=count,
        bos=use if windows.bos is None else "prepended",
        dtype=dtype.removeprefix("torch."),
        seed=seed,
        engine=None if engine == TRANSFORMERS else engine,
    )


def list_cautions(
    text: Text,
    tokenizer: Any,
    vocabulary: int,
    trial: StartTrial,
    location: Location | None = None,
    *,
    uncalibrated: bool = False,
) -> tuple[str, ...]:
    """List what a reader should know before quoting a figure that was measured on this text.

    Args:
        text: The text.
        tokenizer: The model's tokenizer.
        vocabulary: How many tokens it has.
        trial: How texts are begun, and what the other way gives.
        location: What was located, with BOS and without.
        uncalibrated: Whether calibration was asked for and no text was left for it.
    """
    cautions = []
    sample = text.text[:_SAMPLE]
    token_ids = tokenizer(sample, add_special_tokens=False, verbose=False)["input_ids"]
    unknown = token_ids.count(tokenizer.unk_token_id)
    if len(token_ids) > len(sample) or unknown > _MUCH_UNKNOWN * len(token_ids):
        cautions.append(
            f"The tokenizer does not know this text: it makes {len(token_ids):,} tokens of {len(sample):,} "
            f"characters, {unknown:,} of them unknown. Name a text in the model's own language and script "
            "(corpus source)."
        )
    start = trial.start
    if start.declared not in (None, start.returned):
        cautions.append(
            f"The model's files say that a BOS token is {'' if start.declared else 'not '}to stand before a text "
            f"(add_bos_token), and the tokenizer that they make puts {'one' if start.returned else 'none'} there: "
            f"{'what it does' if start.automatic == start.returned else 'what they say'} is followed by default."
        )
    if trial.seems_wrong:
        done, better = ("with", "without") if start.bos is not None else ("without", "with")
        rule = "never" if start.bos is not None else "always"
        cautions.append(
            f"Every text begins {done} a BOS token, and the model seems to be made for texts {better} one: in the "
            f"first window its loss is {tell_loss(trial.other_loss)} {better} it and {tell_loss(trial.loss)} "
            f"{done} it ({trial.tokens} tokens). Figures and super weights may be those of a model that nobody "
            f'uses: try bos = "{rule}".'
        )
    if location is not None and location.start_matters and location.beginning is not None:
        cautions.append(f"{location.beginning[0].upper()}{location.beginning[1:]}.")
    if text.identity.name == SPECIMEN and vocabulary > _REAL_VOCABULARY:
        cautions.append(
            "Measured on the specimen's text, in a small invented English: ratios hold, but name a text that "
            "the model was made for (corpus source) before quoting a perplexity."
        )
    if uncalibrated:
        cautions.append(
            "No text is left after the scored windows to calibrate on, so SmoothQuant and static activation "
            "scales are not measured: name a longer text (corpus source) or score fewer windows (corpus windows)."
        )
    return tuple(cautions)


def tell_loss(loss: float | None) -> str:
    """Tell a loss in nats per token."""
    return "not finite" if loss is None else f"{loss:.2f} nats per token"


def digest_tokenizer(tokenizer: Any) -> str:
    """Return the sha256 of a tokenizer's serialized form (64 hex digits).

    Padding and truncation are left out: they are switched on and off in use and change no token here.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and hasattr(backend, "to_str"):
        form = json.loads(backend.to_str())
        form.pop("padding", None)
        form.pop("truncation", None)
    else:
        form = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    form = {"form": form, "bos": tokenizer.bos_token_id}
    return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()
