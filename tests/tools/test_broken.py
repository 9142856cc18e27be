"""What is broken in silence is caught by the check that is named for it, and no sound form is failed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from sw_audit.checks.explain import FAILED
from sw_audit.checks.quantization_as_configured import quantization_as_configured
from sw_audit.checks.registry import find_checks
from sw_audit.checks.weights_intact import weights_intact
from sw_audit.specimen.shipped import specimen_path
from tools.broken.catalogue import CATALOGUE, Broken, add
from tools.broken.copies import WEIGHTS, Copy
from tools.broken.judging import judge_broken, judge_broken_files, judge_sound, list_static
from tools.broken.sound import FORMS, Workshop
from tools.soak.checkpoints import PUBLISHED, is_wronged

STATIC = [
    way
    for way in CATALOGUE.values()
    if way.caught_by and {*way.caught_by} <= {*list_static()} and not FORMS[way.form].missing
]
MEASURED = ("rounded-without-scale", "two-bits", "super-weight-moved", "gain-zeroed", "noise-added")
SOUND = (
    "bfloat16-sharded", "configuration-of-transformers-4", "special-tokens-of-transformers-4", "pad-token-added",
    "template-added", "rounded-int4-group32", "packed-int4-group32", "llm-compressor-W8A8", "gguf-q4_0",
    "gguf-alone-q8_0", "lora-merged-bf16", "two-of-four", "tuned", "untied",
)  # fmt: skip


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.mark.slow
@pytest.mark.parametrize("way", STATIC, ids=lambda way: way.name)
def test_what_files_show_fails_by_the_check_that_is_named_for_it(way: Broken, workshop: Workshop) -> None:
    # Whether a model has all that its configuration asks for is seen when it is opened.
    opens = {weights_intact.id, quantization_as_configured.id} & {*way.caught_by}
    outcome = judge_broken(workshop, way, [*list_static(), *opens]) if opens else judge_broken_files(workshop, way)
    assert (outcome.missed, outcome.code) == ((), FAILED), outcome


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_what_only_measuring_shows_fails_by_the_gate_that_is_named_for_it(name: str, workshop: Workshop) -> None:
    outcome = judge_broken(workshop, CATALOGUE[name])
    assert (outcome.missed, outcome.code) == ((), FAILED), outcome


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUND)
def test_no_gate_fails_a_sound_form(name: str, workshop: Workshop) -> None:
    outcome = judge_sound(workshop, FORMS[name])
    assert not is_wronged(outcome), outcome


def test_the_catalogue_is_as_large_as_it_is_said_to_be_and_names_gates() -> None:
    gates = {check.id for check in find_checks().values() if check.level == "gate"}
    assert len({*PUBLISHED}) >= 20
    assert len(FORMS) >= 60
    assert {*PUBLISHED} <= {*CATALOGUE}
    assert {check for way in CATALOGUE.values() for check in way.caught_by} <= gates
    assert sum(bool(way.caught_by) for way in CATALOGUE.values()) >= 80
    assert all(way.what.endswith(".") for way in CATALOGUE.values())
    assert max(Counter((way.what, way.form) for way in CATALOGUE.values()).values()) == 1


def test_two_ways_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two ways are called sampling"):
        add("sampling", "settings", "Tokens are drawn.", (), print)


def test_a_copy_is_changed_and_the_original_is_not(tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in specimen_path().iterdir()}
    copy = Copy(specimen_path(), tmp_path / "copy")
    copy.change("config.json", eos_token_id=5)
    with copy.tensors() as tensors:
        tensors["lm_head.weight"].zero_()
    assert copy.config["eos_token_id"] == 5
    assert (copy.folder / WEIGHTS).read_bytes() != before[WEIGHTS]
    assert {path.name: path.read_bytes() for path in specimen_path().iterdir()} == before
