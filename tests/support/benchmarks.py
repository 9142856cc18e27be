"""What benchmarks share: both clocks, and a plain pass of a model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.corpus.windows import Windows
from sw_audit.measure.readers import batch_windows


def take_seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return seconds of the clock and of the processor."""
    begun, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - used


def run_plainly(checkpoint: Checkpoint, windows: Windows) -> None:
    """Run the model as it is over the batches of an audit, and take the loss of each token."""
    with torch.no_grad():
        for batch in batch_windows(windows, checkpoint.vocabulary):
            logits = checkpoint.model(input_ids=batch.token_ids, use_cache=False).logits
            logits[:, :-1].float().log_softmax(-1).gather(-1, batch.token_ids[:, 1:, None])


def find_published() -> Path | None:
    """Return the file of SmolLM2-135M-Instruct: what `SW_AUDIT_BENCH_MODEL` names, or what `make real` fetched."""
    fetched = Path(__file__).parents[2] / ".cache" / "real" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    named = Path(os.environ.get("SW_AUDIT_BENCH_MODEL", fetched))
    return named if named.exists() else None
