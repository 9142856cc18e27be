from __future__ import annotations

from pathlib import Path

import pytest

from sw_audit.errors import IndexFileError
from sw_audit.index.reading import merge_indexes, parse_index, read_index
from sw_audit.record.published import Impact

HEAD = "sw-audit-index = 1\n"
SOURCE = '[[source]]\nkey = "{key}"\ntitle = "{key} says so"\ntrust = "good"\n'
WEIGHT = '[[model.weight]]\nlayer = {layer}\nrow = 5\ncolumn = 7\nbearing = "{bearing}"\nsources = ["{key}"]\n'


def write(key: str, bearing: str, *, layer: int = 1, model: str = "owner/model", value: str = "") -> str:
    entry = f'[[model]]\nid = "{model}"\n'
    return HEAD + SOURCE.format(key=key) + entry + WEIGHT.format(key=key, bearing=bearing, layer=layer) + value


def write_scalar(
    place: str, *, parameter: str = "model.norm.weight", key: str = "A", bearing: str = "minor"
) -> str:
    """Write an index of one scalar of any parameter."""
    named = f'parameter = "{parameter}"\n' if parameter else ""
    entry = f'[[model]]\nid = "owner/model"\n[[model.weight]]\n{named}{place}\n'
    return f'{HEAD}{SOURCE.format(key=key)}{entry}bearing = "{bearing}"\nsources = ["{key}"]\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is not an index"),
        ("[tool.other]\nx = 1\n", "it is not an index"),
        ("{}", "it is not TOML"),
        ('{"schema": 1}', "it is not TOML"),
        ("sw-audit-index = 2\n", "Input should be 1"),
        ('sw-audit-index = "1"\n', "Input should be 1"),
        (HEAD + "[[modells]]\nid = 'x'\n", "key modells: there is no such key"),
        (HEAD + "[[model]]\naliases = []\n", "key model[0].id"),
        (write("A", "fatal"), "key model[0].weight[0].bearing"),
        (write("A", "alone", layer=-1), "key model[0].weight[0].layer"),
        (write("A", "alone", value='value = "big"\n'), "key model[0].weight[0].value"),
        (write("A", "alone", value="value = nan\n"), "model[0].weight[0].value"),
        (write("A", "alone").replace('sources = ["A"]', 'sources = ["B"]'), "cites 'B', which is no source"),
        (write("A", "alone").replace('sources = ["A"]', "sources = []"), "key model[0].weight[0].sources"),
        (write_scalar("index = 17"), "key model[0].weight[0].index"),
        (write_scalar("index = []"), "key model[0].weight[0].index"),
        (write_scalar("index = [1, 2, 3, 4]"), "key model[0].weight[0].index"),
        (write_scalar("index = [-1]"), "key model[0].weight[0].index[0]"),
        (write_scalar("index = [1.5]"), "key model[0].weight[0].index[0]"),
        (write_scalar("index = [17]", parameter=""), "weight[0]: `index` stands without `parameter`"),
        (write_scalar("index = [17]\nrow = 3"), "weight[0]: `index` stands beside `row`, `column` or `expert`"),
        (write_scalar("index = [17]\nexpert = 0"), "weight[0]: `index` stands beside `row`, `column` or `expert`"),
    ],
)
def test_what_is_no_index_is_one_clear_line(text: str, words: str) -> None:
    with pytest.raises(IndexFileError) as caught:
        parse_index(text, "mine.toml")
    assert words in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_a_file_that_is_missing_or_no_text_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(IndexFileError, match="No such file"):
        read_index(tmp_path / "gone.toml")
    with pytest.raises(IndexFileError, match="directory"):
        read_index(tmp_path)
    (tmp_path / "weights").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(IndexFileError, match="not text in UTF-8"):
        read_index(tmp_path / "weights")


def test_two_indexes_of_one_model_become_one_entry_and_nothing_is_lost() -> None:
    first = parse_index(write("A", "unmeasured", value='note = "first"\n'), "a")
    second = parse_index(write("B", "alone", model="OWNER/Model", value='value = -2.5\nnote = "second"\n'), "b")
    third = parse_index(write("C", "minor", layer=4), "c")
    merged = merge_indexes(first, second, third)
    [model] = merged.models
    assert model.id == "owner/model"
    assert [source.key for source in merged.sources] == ["A", "B", "C"]
    one, other = model.weights
    assert one.sources == ("A", "B")
    assert (one.value, one.bearing, one.note) == (-2.5, Impact.ALONE, "first second")
    assert (other.layer, other.bearing, other.sources) == (4, Impact.MINOR, ("C",))


def test_a_bearing_that_was_measured_is_not_overwritten() -> None:
    first, second = parse_index(write("A", "minor"), "a"), parse_index(write("B", "alone"), "b")
    assert merge_indexes(first, second).models[0].weights[0].bearing is Impact.MINOR
    assert merge_indexes(second, first).models[0].weights[0].bearing is Impact.ALONE
    assert merge_indexes(first, first) == first


@pytest.mark.parametrize(
    ("place", "written"),
    [
        ("index = [17]", "model.norm.weight[17]"),
        ("index = [5, 7]", "model.norm.weight[5, 7]"),
        ("index = [1, 5, 7]\nlayer = 3", "model.norm.weight[1, 5, 7]"),
    ],
)
def test_an_entry_may_be_one_scalar_of_any_parameter(place: str, written: str) -> None:
    [weight] = parse_index(write_scalar(place), "x").models[0].weights
    assert (str(weight), str(weight.scalar), weight.is_scalar) == (written, written, False)


def test_scalars_of_other_parameters_are_merged_by_parameter_and_index_and_with_nothing_else() -> None:
    first, other = write_scalar("index = [17]"), write_scalar("index = [322]", key="B")
    again = write_scalar("index = [17]", key="C", bearing="alone")
    elsewhere = write_scalar("index = [17]", parameter="model.layers.0.input_layernorm.weight", key="D")
    located = write("E", "alone")
    merged = merge_indexes(*(parse_index(text, "x") for text in (first, other, again, elsewhere, located)))
    assert [(str(weight), weight.sources) for weight in merged.models[0].weights] == [
        ("model.norm.weight[17]", ("A", "C")),
        ("model.norm.weight[322]", ("B",)),
        ("model.layers.0.input_layernorm.weight[17]", ("D",)),
        ("layer 1 [5, 7]", ("E",)),
    ]
