"""Run the parts of the soak, print their tables, and write them into the documents.

python -m tools.soak [PART ...]

Exit codes: 0 as it should be, 1 something slipped through or fell over; the table says what.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from tools.soak.checkpoints import PAGE, soak_broken, soak_sound
from tools.soak.fuzz import fuzz, list_rows
from tools.soak.intervals import soak_intervals
from tools.soak.kills import kill_many
from tools.soak.pages import make_table, write_between

INPUTS = 200_000


def soak_fuzz() -> int:
    """Spoil and read files of every kind; return how many were neither read nor refused in one line."""
    rows = fuzz(INPUTS)
    table = list(list_rows(rows))
    sys.stdout.write("\n".join([*table, *(example for row in rows for example in row.examples)]) + "\n")
    write_between(PAGE, "fuzz", table)
    return sum(row.defects for row in rows)


def soak_kills() -> int:
    """Kill an audit at moments drawn at random; return after how many kills something was wrong."""
    kills = list(kill_many())
    head = ("killed", "had ended before", "broken files", "other verdicts afterwards", "left behind")
    row = (
        len(kills),
        sum(kill.ended for kill in kills),
        sum(bool(kill.broken) for kill in kills),
        sum(kill.wrong for kill in kills),
        sum(bool(kill.leftovers) for kill in kills),
    )
    table = list(make_table([head, row]))
    sys.stdout.write("\n".join(table) + "\n")
    write_between(PAGE, "kills", table)
    return sum(not kill.clean for kill in kills)


PARTS: Mapping[str, Callable[[], int]] = MappingProxyType(
    {
        "broken": soak_broken,
        "sound": soak_sound,
        "fuzz": soak_fuzz,
        "kills": soak_kills,
        "intervals": soak_intervals,
    }
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
