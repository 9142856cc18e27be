"""A model taken apart: what comes before its decoder layers, how each layer is called, and what comes after."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from sw_audit.checkpoint.calls import LayerCall, split_call
from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.checkpoint.opening import Checkpoint

# What of a module decides what a call of it does.
_REPLACED = ("forward", "_forward_hooks", "_forward_pre_hooks")


class LayerwiseRunner:
    """One model, ready to be run layer by layer on some batches.

    The model's own `forward` is used twice per batch: once with its layers replaced by recorders, which gives the
    embedded tokens and how each layer is called; and, when the layers have been run by hand, again with the layers
    replaced by the stored results, so that final norm, head and any scaling of logits are the model's own.

    Args:
        checkpoint: The model; its layers may be in memory only while they run.
        batches: Token ids, int64 [sequences, tokens] each.

    Attributes:
        checkpoint: The model.
        layers: Its decoder layers.
        calls: How each layer is called, [layer][batch].
        embedded: What enters the first layer, [batch] of [sequences, tokens, hidden].
    """

    def __init__(self, checkpoint: Checkpoint, batches: Sequence[Tensor]) -> None:
        self.checkpoint = checkpoint
        self.layers: tuple[DecoderLayer, ...] = checkpoint.layers
        self.calls: list[list[LayerCall]] = [[] for _ in self.layers]
        self.embedded: list[Tensor] = []
        self._shapes = _learn_output_shapes(checkpoint, batches[0])
        with _layers_replaced(self.layers, self._record):
            for token_ids in batches:
                _call_model(checkpoint, token_ids)

    def find_layer(self, depth: int) -> DecoderLayer | None:
        """Return one of the layers; `None` where there are fewer."""
        return self.layers[depth] if depth < len(self.layers) else None

    def run_head(self, token_ids: Tensor, hidden: Tensor) -> Tensor:
        """Run what comes after the layers.

        Args:
            token_ids: One of the batches.
            hidden: What leaves the last layer, [sequences, tokens, hidden].

        Returns:
            Logits, [sequences, tokens, vocabulary].
        """
        last = len(self.layers) - 1

        def pass_on(depth: int, *positional: Any, **named: Any) -> Any:
            states = hidden if depth == last else split_call(positional, named)[0]
            return _like_layer(states, self._shapes[depth])

        with _layers_replaced(self.layers, pass_on):
            logits: Tensor = _call_model(self.checkpoint, token_ids).logits
        return logits

    def _record(self, depth: int, *positional: Any, **named: Any) -> Any:
        hidden, call = split_call(positional, named)
        self.calls[depth].append(call)
        if depth == 0:
            self.embedded.append(hidden)
        return _like_layer(hidden, self._shapes[depth])


def _learn_output_shapes(checkpoint: Checkpoint, token_ids: Tensor) -> list[int | None]:
    """Return, per layer, `None` where its output is a tensor, else the length of the tuple it returns."""
    shapes: list[int | None] = [None] * len(checkpoint.layers)

    def note(depth: int, _: object, __: object, output: Any) -> None:
        shapes[depth] = None if isinstance(output, Tensor) else len(output)

    handles = [
        layer.module.register_forward_hook(partial(note, depth)) for depth, layer in enumerate(checkpoint.layers)
    ]
    try:
        _call_model(checkpoint, token_ids[:1, :2])
    finally:
        for handle in handles:
            handle.remove()
    return shapes


@contextmanager
def _layers_replaced(layers: Sequence[DecoderLayer], forward: Callable[..., Any]) -> Iterator[None]:
    # Another library may have put a forward of its own on the module: it is put back as it was. Hooks must not
    # run either: those that bring a layer into memory would do so for nothing.
    stored = [{key: layer.module.__dict__.get(key) for key in _REPLACED} for layer in layers]
    try:
        for depth, layer in enumerate(layers):
            layer.module.__dict__.update(
                forward=partial(forward, depth), _forward_hooks=OrderedDict(), _forward_pre_hooks=OrderedDict()
            )
        yield
    finally:
        for layer, before in zip(layers, stored, strict=True):
            layer.module.__dict__.pop("forward", None)
            layer.module.__dict__.update({key: value for key, value in before.items() if value is not None})


def _call_model(checkpoint: Checkpoint, token_ids: Tensor) -> Any:
    return checkpoint.model(input_ids=token_ids.to(checkpoint.device), use_cache=False)


def _like_layer(hidden: Tensor, shape: int | None) -> Any:
    return hidden if shape is None else (hidden, *[None] * (shape - 1))
