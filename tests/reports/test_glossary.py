from __future__ import annotations

import re

import pytest
from support.sections import render_example
from sw_audit_reports.glossary import GLOSSARY


@pytest.mark.parametrize("term", GLOSSARY)
def test_each_word_is_explained_in_one_sentence_without_figures_of_its_own(term: str) -> None:
    assert re.fullmatch(r"[A-Z][^.]*\.", GLOSSARY[term])
    assert not set(re.findall(r"\d+", GLOSSARY[term])) - {"0", "1", "2"}


def test_the_page_folds_the_words_out() -> None:
    page = render_example()[1]
    explained = {one.text for one in page.find("dd") if one.ancestors[-3:-2] == ("details",)}
    assert set(GLOSSARY.values()) <= explained
