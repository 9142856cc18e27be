"""A folder appears whole or not at all, and never over the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from sw_audit.errors import OutputError
from sw_audit.export.folder import check_place, whole_folder


def write_half(folder: Path) -> float:
    with whole_folder(folder) as draft:
        (draft / "new").write_text("y")
        return 1 / 0


def list_names(folder: Path) -> Sequence[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old").write_text("x")
    with pytest.raises(ZeroDivisionError):
        write_half(folder)
    assert (list_names(tmp_path), list_names(folder)) == (["out"], ["old"])
    with whole_folder(folder) as draft:
        (draft / "new").write_text("y")
    assert (list_names(tmp_path), list_names(folder)) == (["out"], ["new"])


def test_a_folder_with_something_in_it_or_with_the_model_in_it_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "models" / "llama"
    source.mkdir(parents=True)
    (source / "config.json").touch()
    check_place(tmp_path / "new", source, force=False)
    with pytest.raises(OutputError, match="is not empty"):
        check_place(source.parent, None, force=False)
    check_place(source.parent, None, force=True)
    for place in (source, source.parent, tmp_path):
        with pytest.raises(OutputError, match="the model itself is there"):
            check_place(place, source, force=True)
    with pytest.raises(OutputError, match="it is a file"):
        check_place(source / "config.json", None, force=True)
