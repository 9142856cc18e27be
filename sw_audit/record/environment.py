"""What an audit ran on, from the interpreter and the installed packages; nothing is imported for it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from sw_audit.facts.identity import Environment

# Those whose version can change a figure.
_PACKAGES = ("datasets", "numpy", "safetensors", "sw-audit", "tokenizers", "torch", "transformers")


def describe_environment(threads: int) -> Environment:
    """Describe this interpreter, machine and the packages that decide figures.

    Args:
        threads: How many threads torch uses.
    """
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        threads=threads,
        packages={name: found for name in _PACKAGES if (found := _find_version(name)) is not None},
    )


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
