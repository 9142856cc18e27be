"""Where files are written: tried before anything is measured, and left as it was."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from sw_audit.errors import OutputError
from sw_audit.runner import output
from sw_audit.runner.options import AuditSettings


def test_trying_an_output_folder_leaves_no_trace(tmp_path: Path) -> None:
    output.check_places(AuditSettings(out=tmp_path / "a" / "b", caching=False))
    assert list(tmp_path.iterdir()) == []


def test_what_another_process_writes_meanwhile_into_the_same_folder_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_beside(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "theirs").touch()

    monkeypatch.setattr(output, "check_writable", write_beside)
    output.check_places(AuditSettings(out=tmp_path / "a" / "b", caching=False))
    assert (tmp_path / "a" / "b" / "theirs").exists()


@pytest.mark.parametrize(
    ("causes", "tries", "ends"),
    [
        ([FileNotFoundError(), FileNotFoundError(), None], 3, None),
        ([FileNotFoundError(), PermissionError()], 2, "it cannot be had"),
        ([FileNotFoundError()] * 9, 4, "it cannot be had"),
    ],
)
def test_a_folder_that_another_process_takes_away_while_it_is_tried_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, causes: list[OSError | None], tries: int, ends: str | None
) -> None:
    left = list(causes)

    def lose(_folder: Path) -> None:
        if (cause := left.pop(0)) is not None:
            raise OutputError("output folder", "it cannot be had", "choose another") from cause

    monkeypatch.setattr(output, "check_writable", lose)
    with nullcontext() if ends is None else pytest.raises(OutputError, match=ends):
        output.check_places(AuditSettings(out=tmp_path / "a", caching=False))
    assert len(causes) - len(left) == tries
