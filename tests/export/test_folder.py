"""A folder is never written over the model itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from sw_audit.errors import OutputError
from sw_audit.export.folder import check_place


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
