"""Locates super weights in a checkpoint that need not fit into memory."""

from __future__ import annotations

import sys

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.streaming import CannotStreamError, open_streaming
from sw_audit.locate.locator import DEFAULT_PROMPT, locate_super_weights
from sw_audit.locate.settings import DEFAULT_SETTINGS, LocatorSettings
from sw_audit.locate.trace import count_early_layers
from sw_audit.policy.policy import ModelPolicy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.location import Depth, Location

STAGE = "locating"


def stream_location(
    wanted: ModelPolicy,
    prompt: str = DEFAULT_PROMPT,
    depth: Depth = "full",
    progress: Progress = ignore_progress,
    settings: LocatorSettings = DEFAULT_SETTINGS,
) -> Location:
    """Locate the super weights of a checkpoint while reading it: each decoder layer is there only while it runs.

    The result is that of `locate_super_weights(open_checkpoint(wanted), ...)`, to the last bit.

    Args:
        wanted: The model.
        prompt: Any text.
        depth: `early` stops after the early layers, and reads no others.
        progress: Told after each layer.
        settings: The thresholds.

    Raises:
        CheckpointError: If the checkpoint cannot be used, or a layer that was read is not finite.
    """
    checkpoint = open_for_locating(wanted, depth=depth, digest=False, progress=progress, settings=settings)
    return locate_super_weights(checkpoint, prompt, settings, depth)


def open_for_locating(
    wanted: ModelPolicy,
    *,
    depth: Depth = "full",
    digest: bool = True,
    progress: Progress = ignore_progress,
    settings: LocatorSettings = DEFAULT_SETTINGS,
) -> Checkpoint:
    """Open a checkpoint so that its layers are read as they run; as a whole where that cannot be, and say so.

    Args:
        wanted: The model.
        depth: How far it will be run, for the progress.
        digest: Whether to digest its files, which reads all of them.
        progress: Told after each layer that runs for the first time.
        settings: Which layers are early.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
    """
    done = total = 0

    def tell(layer: int) -> None:
        nonlocal done
        # The first layers may run again, once it is known what is to be explained.
        if layer >= done:
            done = layer + 1
            progress(STAGE, done, total)

    try:
        checkpoint = open_streaming(wanted, digest=digest, on_layer=tell)
    except CannotStreamError as reason:
        sys.stderr.write(f"sw-audit: model {wanted.source!r} is loaded whole, for {reason}\n")
        return open_checkpoint(wanted)
    layers = len(checkpoint.layers)
    total = count_early_layers(layers, settings) if depth == "early" else layers
    progress(STAGE, 0, total)
    return checkpoint
