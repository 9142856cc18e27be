"""Where a mixture of experts routes the tokens of a text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.corpus.windows import Windows
from sw_audit.measure.engine import LayerwiseRunner
from sw_audit.measure.ranges import DownProjectionRange
from sw_audit.measure.readers import batch_windows
from sw_audit.measure.states import StateStore
from sw_audit.record.experts import RoutedLayer


@torch.no_grad()
def follow_routing(checkpoint: Checkpoint, windows: Windows) -> tuple[RoutedLayer, ...]:
    """Run a model once over a text, each layer on all of it before the next, and count where tokens are routed.

    Nothing stays on the model. A dense one is not run.

    Returns:
        One entry per decoder layer that keeps experts; none of a layer whose experts cannot be followed.
    """
    if not any(layer.keeps_experts for layer in checkpoint.layers):
        return ()
    seen: list[RoutedLayer] = []

    @contextmanager
    def watching(layer: DecoderLayer) -> Iterator[None]:
        span = DownProjectionRange(layer)
        with span.watching():
            yield
        seen.extend([] if span.routing is None else [span.routing])

    batches = [batch.token_ids for batch in batch_windows(windows, checkpoint.vocabulary)]
    with StateStore.of(checkpoint) as store:
        LayerwiseRunner(checkpoint, batches, store).run_layers(watching)
    return tuple(seen)
