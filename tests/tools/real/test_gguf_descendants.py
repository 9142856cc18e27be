"""GGUF descendants are what their names say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.runner.single import locate_model
from sw_audit.specimen.shipped import specimen_path
from tests.support.quantizing import pack_gguf
from tools.real.gguf_descendants import STORED, make_gguf_descendants

TEMPLATE = "tokenizer.chat_template"
[WEIGHT] = locate_model(open_checkpoint(ModelPolicy(source=str(specimen_path())))).super_weights


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    source = folder / "source.gguf"
    letters = [chr(letter) for letter in range(0x21, 0x7F)]
    tokens = [*letters, "ab", *(f"unused{number}" for number in range(115))]
    pack_gguf(specimen_path(), source, "Q4_1", tokens, {TEMPLATE: "<assistant>"})
    made = make_gguf_descendants(source, folder / "made", WEIGHT)
    return {"source": source, **{path.stem: path for path in made}}


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Metadata, values and forms of a file's tensors."""
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    values = {one.name: dequantize(one.data, one.tensor_type) for one in reader.tensors}
    return fields, values, {one.name: one.tensor_type.name for one in reader.tensors}


def list_changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name, values in before.items() if not np.array_equal(values, after[name])]


def test_matrices_are_stored_in_the_form_that_is_named_near_to_what_they_were(made: dict[str, Path]) -> None:
    fields, values, _ = read(made["source"])
    for form in STORED:
        again, others, forms = read(made[form.lower()])
        assert again == fields
        assert set(forms.values()) == {form, "F32"}
        errors = [np.linalg.norm(others[name] - one) / np.linalg.norm(one) for name, one in values.items()]
        assert max(errors) < {"Q8_0": 0.03, "Q5_1": 0.1, "Q4_0": 0.3}[form]


def test_one_scale_is_doubled_and_it_holds_the_super_weight(made: dict[str, Path]) -> None:
    before, after = read(made["source"])[1], read(made["scale-doubled"])[1]
    [name] = list_changed(before, after)
    places = np.argwhere(before[name] != after[name])
    assert name == f"blk.{WEIGHT.layer}.ffn_down.weight"
    assert set(places[:, 0]) == {WEIGHT.address.row}
    assert len(places) <= 32
    assert WEIGHT.address.column in places[:, 1]


def test_two_matrices_change_places(made: dict[str, Path]) -> None:
    before, after = read(made["source"])[1], read(made["swapped"])[1]
    first, second = list_changed(before, after)
    assert np.array_equal(before[first], after[second])
    assert np.array_equal(before[second], after[first])


def test_another_rope_base_and_another_template_change_one_key(made: dict[str, Path]) -> None:
    fields, values, _ = read(made["source"])
    for name, key, expected in (
        ("rope-base", "llama.rope.freq_base", fields["llama.rope.freq_base"] / 10),
        ("template", TEMPLATE, "<bot>"),
    ):
        again, others, _ = read(made[name])
        assert [one for one in fields if fields[one] != again[one]] == [key]
        assert again[key] == expected
        assert not list_changed(values, others)
