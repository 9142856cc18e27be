"""Methods made ready to quantize layers, and why others cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from sw_audit.backends.layers import LayerQuantizer
from sw_audit.backends.method import Method, find_obstacle, find_version
from sw_audit.backends.models import ModelQuantizer, quantize_models
from sw_audit.policy.policy import ModelPolicy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.comparison import ComparedQuantizer, Quality

Quantizer: TypeAlias = LayerQuantizer | ModelQuantizer

NO_TEXT = "it learns from text, and none is left beside what is scored (give a longer one)"


def prepare_methods(
    methods: Sequence[Method],
    model: ModelPolicy,
    calibration: Tensor | None,
    seed: int,
    folder: Path,
    progress: Progress = ignore_progress,
) -> tuple[dict[str, Quantizer], dict[str, str]]:
    """Get methods ready; those that work on a whole model do their work now, one process per library.

    Args:
        methods: The methods.
        model: The model, as it was opened.
        calibration: Token ids, int64 [windows, tokens]; `None` if there is no text to calibrate on.
        seed: Of everything that is drawn.
        folder: An existing folder, which must stay as long as the layers are used.
        progress: Told which library is at work.

    Returns:
        By the methods' names: what makes their layers, and for the other methods why nothing does, in one line.
    """
    obstacles = {method.name: obstacle for method in methods if (obstacle := find_obstacle(method)) is not None}
    ready = [method for method in methods if method.name not in obstacles]
    quantizers: dict[str, Quantizer] = {
        method.name: LayerQuantizer(method) for method in ready if not method.calibrates
    }
    learning = [method for method in ready if method.calibrates]
    packages = list(dict.fromkeys(method.package for method in learning))
    for number, package in enumerate(packages):
        own = [method for method in learning if method.package == package]
        if calibration is None:
            obstacles |= {method.name: NO_TEXT for method in own}
            continue
        progress(f"quantizing with {package}", number, len(packages))
        for quantizer in quantize_models(own, model, calibration, seed, folder):
            if quantizer.failure is None:
                quantizers[quantizer.method.name] = quantizer
            else:
                obstacles[quantizer.method.name] = quantizer.failure
    return quantizers, obstacles


def describe_method(
    method: Method, quality: Quality | None, quantizer: Quantizer | None, obstacle: str | None
) -> ComparedQuantizer:
    """Put what is known of a method into a row.

    Args:
        method: The method.
        quality: How good it is, if it was measured.
        quantizer: What made its layers, if anything did.
        obstacle: Why it was not measured, if it was not.
    """
    version = find_version(method.package)
    row = ComparedQuantizer(
        method=method.name,
        settings=method.settings,
        package=None if version is None else f"{method.package} {version}",
        what=method.what,
        because=obstacle,
    )
    if quantizer is None or quality is None:
        return row
    bits = quantizer.bits
    return row.model_copy(
        update={
            "arm": method.name,
            "quality": quality,
            "bits_per_weight": bits / quantizer.weights if bits is not None and quantizer.weights else None,
            "seconds": quantizer.seconds,
            "peak_bytes": quantizer.peak_bytes,
            "left_alone": quantizer.left,
        }
    )
