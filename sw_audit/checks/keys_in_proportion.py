"""Whether a quantized cache would keep the keys of every layer, told from the weights."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.estimate import hold_exactly, write_number
from sw_audit.checks.limits import Limits, Nonnegative
from sw_audit.checks.registry import Need, check
from sw_audit.record.keys import CACHE_KINDS, CacheKind, KeyChannel, KeyReport, LayerKeys
from sw_audit.record.verdict import Finding, Status, Verdict

_AGAIN = "Run the audit again with this check selected."


def _read_list(kinds: Any) -> Any:
    return tuple(kinds) if isinstance(kinds, list) else kinds


class KeysInProportionLimits(Limits):
    """Limits of `keys-in-proportion`.

    Attributes:
        maximum_error: Largest predicted error of a head's keys, over what in them depends on the text. In
            q4_0 the worst head of SmolLM2-135M-Instruct is at 0.12, which costs 1.1 times the perplexity. With
            a bias in one channel of every head that turns so slowly that the model itself does not notice, it
            costs the same at 0.41 and 1.36, 1.8, 2.8 and 9.9 times the perplexity at 0.62, 0.68, 0.69 and 0.72;
            in q8_0 1.01 times at 0.21 and 1.27 at 0.61 (768 tokens of wikitext-2). A tiny Qwen2 with normal
            weights is at 0.09, with a bias 50 times as large as its keys at 0.84. The specimen, in fp8, is at
            0.027.
        kinds: The kinds of cache that are judged.
    """

    maximum_error: Nonnegative = 0.5
    kinds: Annotated[tuple[CacheKind, ...], BeforeValidator(_read_list), Field(min_length=1)] = CACHE_KINDS


@check(
    id="keys-in-proportion",
    order=276,
    title="A quantized KV-cache would keep the keys of every head",
    meaning="One channel that towers over its head, by a bias as a rule, sets the step of a whole block of the "
    "cache; what tells tokens apart is then rounded away.",
    quantity="predicted error of a head's keys",
    fails="rounding to q8_0, q4_0 or fp8 changes the keys of a head by more than half of what in them depends on "
    "the text",
    limits=KeysInProportionLimits,
    level="law",
    known="a 4-bit cache destroys Qwen2 and Qwen2.5, whose keys have huge biases (llama.cpp issue 21385; "
    "vLLM issue 10411)",
    unit="share",
    side="at most",
    scope="any",
    needs=frozenset({Need.KEYS}),
)
def keys_in_proportion(context: CheckContext) -> Verdict:
    """Rule of `keys-in-proportion`.

    The keys that each layer's own modules make of random inputs of unit variance, turned as at random positions,
    are rounded as the cache would. What that changes in a head, root mean square, is held against what in its keys
    depends on the text: their distance from the key that does not, which a bias makes. PASS where no head of any
    layer exceeds the limit, for each kind of cache; a kind whose blocks do not fit the heads is skipped. The
    same error on the keys of the locating prompt, the largest bias, and the largest channel of a head against its
    median are told. No interval: nothing is sampled but the random inputs, and these are always the same.
    """
    report, limits = context.result.attention_keys, context.limits(KeysInProportionLimits)
    if report is None:
        return context.conclude(Status.INCONCLUSIVE, "Nobody looked at the keys.", remedy=_AGAIN)
    unread = "; ".join(f"{len(one.layers)} layers could not be read: {one.because}" for one in report.unread)
    told = _list_channels(report)
    held = [one for kind in limits.kinds if (one := _hold(report, kind, limits.maximum_error)) is not None]
    if not held:
        why = (
            unread or f"No cache of {', '.join(limits.kinds)} takes heads of {report.layers[0].channels} channels"
        )
        return context.skip(f"{why[0].upper()}{why[1:]}.", told)
    worst = decide_finding(held, key=lambda one: one.observed or 0.0)
    rest = f"; {unread}" if unread else ""
    return context.conclude(
        worst.status,
        f"{worst.label}: {worst.because}; at most {write_number(limits.maximum_error)} is allowed{rest}.",
        remedy="Keep keys of this model unquantized or in a kind that passes (llama.cpp: `--cache-type-k`), and "
        f"measure the kind you ship; or raise `{context.key('maximum_error')}`.",
        figure=worst,
        limit=limits.maximum_error,
        findings=[*held, *told],
        measured=False,
    )


def _hold(report: KeyReport, kind: CacheKind, limit: float) -> Finding | None:
    """Hold one kind of cache against the limit, in the layer where it is worst; `None` where it fits no layer."""
    errors = [(layer, error) for layer in report.layers if (error := layer.find_error(kind)) is not None]
    if not errors:
        return None
    layer, worst = max(errors, key=lambda pair: float("inf") if pair[1].predicted is None else pair[1].predicted)
    measured = [error.measured for _, error in errors if error.measured is not None]
    beside = f"; on a prompt {write_number(max(measured))} at most, over all layers" if measured else ""
    turned = [error.rotated for _, error in errors if error.rotated is not None]
    if turned:
        beside += f"; {write_number(max(turned))} where the engine turns keys before it rounds them (llama.cpp "
        beside += "since April 2026)"
    words = "is not finite" if worst.predicted is None else f"is {write_number(worst.predicted)} of their own size"
    return Finding(
        label=kind,
        status=hold_exactly(worst.predicted, high=limit),
        observed=worst.predicted,
        limit=limit,
        because=f"the error of the keys of layer {layer.layer}, head {worst.head} {words}{beside}; "
        f"{_describe_constant(layer)}",
    )


def _list_channels(report: KeyReport) -> list[Finding]:
    """Tell the largest bias and the largest channel and gain, of all layers."""
    if not report.layers:
        return []
    constant = max(report.layers, key=lambda layer: layer.constant.ratio or 0.0)
    spread = max(report.layers, key=lambda layer: layer.spread.ratio or 0.0)
    told = [
        _tell("bias", constant, constant.constant, f"{_describe_constant(constant)} ({constant.projection})"),
        _tell(
            "channels",
            spread,
            spread.spread,
            f"{_place(spread.spread)}, is {write_number(spread.spread.ratio)} times the median of its head",
        ),
    ]
    gains = [(layer, layer.gain) for layer in report.layers if layer.gain is not None]
    if gains:
        layer, gain = max(gains, key=lambda pair: pair[1].ratio or 0.0)
        words = f"channel {gain.channel} of {layer.norm} has {write_number(gain.value)}"
        told.append(_tell("gain", layer, gain, f"{words}, {write_number(gain.ratio)} times the median"))
    return told


def _tell(label: str, layer: LayerKeys, channel: KeyChannel, words: str) -> Finding:
    return Finding(
        label=label, status=Status.SKIPPED, observed=channel.ratio, because=f"layer {layer.layer}: {words}."
    )


def _describe_constant(layer: LayerKeys) -> str:
    constant = layer.constant
    if not constant.value:
        return "no part of its keys is the same for every text"
    return (
        f"{_place(constant)}, is {write_number(constant.value)} whatever the text, {write_number(constant.ratio)} "
        "times what depends on it"
    )


def _place(channel: KeyChannel) -> str:
    turned = "" if channel.partner is None else f" (turned with {channel.partner})"
    return f"head {channel.head}, channel {channel.channel}{turned}"
