"""Run the parts of the soak, print their tables, and write them into the documents.

python -m tools.soak [PART ...]

Exit codes: 0 as it should be, 1 something slipped through or fell over; the table says what.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from tools.soak.checkpoints import soak_broken, soak_sound
from tools.soak.intervals import soak_intervals

PARTS: Mapping[str, Callable[[], int]] = MappingProxyType(
    {"broken": soak_broken, "sound": soak_sound, "intervals": soak_intervals}
)
"""Each returns how much is not as it should be."""


def main(arguments: Sequence[str]) -> int:
    """Run some parts, or all of them, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    chosen = parser.parse_args(arguments).parts or [*PARTS]
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}: choose of {', '.join(PARTS)}")
    wrong = sum(PARTS[name]() for name in chosen)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
