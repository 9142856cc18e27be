"""The keys that attention caches: how their channels compare, and what rounding a cache would cost them."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from pydantic import Field

from sw_audit.fact import Fact
from sw_audit.record.address import Index

CacheKind: TypeAlias = Literal["q8_0", "q4_0", "fp8"]
"""`q8_0` and `q4_0`: llama.cpp's blocks of 32 channels with one step each, of 8 and of 4 bits. `fp8`:
float8_e4m3fn with a scale of 1, as vLLM keeps a cache whose scales nobody calibrated."""
CACHE_KINDS: tuple[CacheKind, ...] = get_args(CacheKind)


class KeyChannel(Fact):
    """One channel of the keys of one head.

    Attributes:
        head: Key head, counted from 0.
        channel: Channel in the head.
        partner: The channel that rotary embedding turns together with it; `None` if it turns with none.
        value: Its own figure.
        ratio: What that is of what it is held against; `None` where that is zero.
    """

    head: Index
    channel: Index
    partner: Index | None = None
    value: float
    ratio: float | None = Field(default=None, ge=0)


class CachedKeyError(Fact):
    """What one kind of cache makes of the keys of a layer, in the head where it is worst.

    An error is the root mean square of what rounding changes in a head's keys, over that of what in them depends
    on the text: their distance from the key that does not.

    Attributes:
        kind: Which kind.
        predicted: Error on keys that the weights make of random inputs; `None` if not finite.
        head: In which head that is.
        rotated: Error likewise where the engine turns keys by a Hadamard matrix before it rounds them, in the head
            where that is largest; `None` where it does not.
        measured: Error on the keys of the locating prompt, as they stand in the cache, in the head where that is
            largest; `None` where it cannot be told.
    """

    kind: CacheKind
    predicted: float | None = Field(default=None, ge=0)
    head: Index
    rotated: float | None = Field(default=None, ge=0)
    measured: float | None = Field(default=None, ge=0)


class LayerKeys(Fact):
    """The keys of one layer.

    Attributes:
        layer: Decoder layer.
        projection: Qualified name of the module that makes them of the hidden states.
        norm: Qualified name of the norm that they pass on their way into the cache; `None` if there is none.
        heads: Number of key heads.
        channels: Channels of each.
        rotated: How many of the channels rotary embedding turns; `None` if that was not recognized.
        constant: The largest entry of the key that does not depend on the text, which is the bias of the
            projection and what it makes of the bias of the norm before it; over the root mean square of what does,
            in its head.
        spread: The channel whose text-dependent part is largest, against the median of its head's channels.
        gain: The channel with the largest gain of the norm, against the median; `None` without such a norm.
        errors: What each kind of cache makes of them; a kind is left out that these heads have no whole blocks of.
    """

    layer: Index
    projection: str
    norm: str | None = None
    heads: Index
    channels: Index
    rotated: Index | None = None
    constant: KeyChannel
    spread: KeyChannel
    gain: KeyChannel | None = None
    errors: tuple[CachedKeyError, ...] = ()

    def find_error(self, kind: CacheKind) -> CachedKeyError | None:
        """Return what one kind of cache makes of them, if that is known."""
        return next((one for one in self.errors if one.kind == kind), None)


class UnreadKeys(Fact):
    """Layers whose keys nothing is said of.

    Attributes:
        layers: Which ones.
        because: Why, a clause.
    """

    layers: tuple[Index, ...]
    because: str


class KeyReport(Fact):
    """The keys of a model.

    Attributes:
        layers: Layer by layer.
        unread: Those whose keys could not be told from what else attention computes.
        draws: How many random inputs keys were predicted of.
        tokens: Length of the prompt that keys were measured on.
    """

    layers: tuple[LayerKeys, ...] = ()
    unread: tuple[UnreadKeys, ...] = ()
    draws: Index = 0
    tokens: Index = 0
