"""An error that nobody foresaw: one line, and a file with its traceback."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest

from sw_audit.defect import tell_defect
from sw_audit.printable import printable


def fail(secret: str) -> None:
    assert secret
    raise ZeroDivisionError("a \x1b[31mdefect\nof two lines")


def test_the_line_names_the_error_and_a_file_that_is_the_users_alone_and_holds_no_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    try:
        fail("hf_" + "token" * 4)
    except ZeroDivisionError as error:
        line = tell_defect(error)
    [file] = tmp_path.iterdir()
    assert file.name.startswith("sw-audit-error-2")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert str(file) in line
    assert line == printable(line)
    assert r"ZeroDivisionError: a \x1b[31mdefect of two lines" in line
    text = file.read_text()
    assert "in fail" in text
    assert "tokentoken" not in text
    assert "\x1b" not in text


def test_where_no_file_can_be_written_the_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert tell_defect(ValueError("x")).endswith(
        "its traceback could not be written (No such file or directory); run it again with --debug"
    )
