from __future__ import annotations

import pytest

from sw_audit.record.memory import MemoryUse

MIB = 1 << 20


@pytest.mark.parametrize(("peak", "exceeds"), [(None, False), (400 * MIB, False), (400 * MIB + 1, True)])
def test_more_than_the_budget_exceeds_it(peak: int | None, exceeds: bool) -> None:
    assert MemoryUse(budget=400 * MIB, program=0, peak=peak).exceeds is exceeds


def test_it_says_what_was_taken_of_what_and_what_was_read() -> None:
    used = MemoryUse(budget=400 * MIB, program=310 * MIB, peak=380 * MIB, weights_read=5 << 30)
    assert str(used) == (
        "380 MiB at most of 400 MiB beyond the program's 310 MiB, 5 GiB of weights read layer by layer"
    )
    unknown = MemoryUse(budget=400 * MIB, program=310 * MIB)
    assert str(unknown) == "an unknown amount of 400 MiB beyond the program's 310 MiB"
