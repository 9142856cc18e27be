"""What an audit ran on, from the interpreter and the installed packages; nothing is imported for it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from sw_audit.record.identity import Environment

# Those whose version can change a figure.
_PACKAGES = ("datasets", "numpy", "safetensors", "sw-audit", "tokenizers", "torch", "transformers")
# Those that compute with quantized weights or adapters, or ask the questions of tasks.
_FORMATS = (
    "accelerate", "bitsandbytes", "compressed-tensors", "gguf", "gptqmodel", "hypothesis", "lm-eval", "optimum",
    "optimum-quanto", "peft", "torchao",
)  # fmt: skip


def describe_environment(threads: int) -> Environment:
    """Describe this interpreter, machine and the packages that decide figures.

    Args:
        threads: How many threads torch uses.
    """
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        threads=threads,
        packages={name: version for name in _PACKAGES if (version := _find_version(name)) is not None},
    )


def list_versions() -> dict[str, str]:
    """Return the versions of Python and of every installed package that can change a figure."""
    versions = {name: _find_version(name) for name in (*_PACKAGES, *_FORMATS)}
    versions["python"] = platform.python_version()
    return {name: version for name, version in versions.items() if version is not None}


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
