"""Where super weights are located: in sixty planted models of all families, and in the models that ship."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden.keeping import compare_or_keep
from golden.reading import family_of, list_families, locate, locate_planted, name_planted, one_thread

NUMBERS = range(60)


@pytest.mark.filterwarnings("ignore")
def test_planted_models() -> None:
    full, early, sentences = {}, {}, {}
    with one_thread():
        for number in NUMBERS:
            name, located = name_planted(number), locate_planted(number)
            sentences[name] = [one.pop("because") for one in located.values()]
            full[name], early[name] = located["full"], located["early"]
    compare_or_keep("locations-planted", {"full": full, "early": early, "sentences": sentences})


def test_every_family_is_among_them() -> None:
    assert {family_of(number) for number in NUMBERS} == list_families()


def test_shipped_models(tmp_path: Path) -> None:
    with one_thread():
        located = {
            f"{model} {depth}": locate(tmp_path, model, f"--depth={depth}")
            for model in ("specimen", "control")
            for depth in ("full", "early")
        }
    sentences = {name: one.pop("because") for name, one in located.items()}
    compare_or_keep("locations-shipped", {"located": located, "sentences": sentences})
