"""An audit killed at random moments leaves whole files, right verdicts, and nothing else."""

from __future__ import annotations

import pytest

from tools.soak.kills import kill_many


@pytest.mark.slow
def test_an_audit_killed_at_random_moments_leaves_whole_files_and_the_next_ends_as_if_nothing_had_been() -> None:
    kills = list(kill_many(2, seed=7))
    assert [kill for kill in kills if not kill.clean] == []
    assert not all(kill.ended for kill in kills)
