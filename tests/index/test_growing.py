from __future__ import annotations

import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.critical import (
    EMBEDDING,
    GAIN,
    LOCATED,
    NORM,
    make_rich_search,
    make_scalar,
    make_search,
    make_searched_location,
    make_set,
)
from support.evidence import make_identity, make_location

from sw_audit.errors import IndexFileError, OutputError
from sw_audit.index import growing
from sw_audit.index.growing import Finding, add_finding, describe_finding, encode_entry
from sw_audit.index.lookup import find_published, open_index
from sw_audit.index.reading import parse_index, read_index
from sw_audit.record.critical import CriticalSearch
from sw_audit.record.location import Impact as Trial
from sw_audit.record.location import Location, Outcome
from sw_audit.record.published import Impact, LocalFinding, Match, PublishedModel, Source
from sw_audit.record.store import write_text

HAND_WRITTEN = """\
# what I know
sw-audit-index = 1   # the form

[[source]]
key = "ME"
title = "My notebook"
trust = "medium"

[[model]]
id = "me/mine"
[[model.weight]]
layer = 3   # found by hand
row = 1
column = 2
bearing = "alone"
sources = ["ME"]"""


def describe(created: str = "2026-01-02T03:04:05+00:00", **changes: object) -> Finding:
    location = make_location().model_copy(update=changes)
    return describe_finding(
        make_identity(),
        location,
        tool="sw-audit 0.1.0",
        created=created,
        settings={"standout": 20.0, "maximum": 6},
    )


def test_a_finding_makes_the_index_and_is_read_back_with_its_provenance(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    assert add_finding(file, describe(), write_text)
    index = read_index(file)
    [model], [source] = index.models, index.sources
    [weight] = model.weights
    located = make_location().super_weights[0]
    assert (weight.layer, weight.row, weight.column) == (located.layer, located.row, located.column)
    assert (weight.parameter, weight.value, weight.bearing) == (
        located.parameter,
        located.value,
        Impact.UNMEASURED,
    )
    assert (model.id, model.digests) == ("models/specimen", (make_identity().digest,))
    finding = source.finding
    assert finding is not None
    assert (finding.tool, finding.created) == ("sw-audit 0.1.0", "2026-01-02T03:04:05+00:00")
    assert (finding.digest, finding.dtype) == (make_identity().digest, "float32")
    assert (finding.prompt, finding.bos) == (make_location().prompt, True)
    assert finding.settings == {"standout": 20.0, "maximum": 6}
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_there_stays_byte_for_byte(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(HAND_WRITTEN.replace("\n", "\r\n").encode())
    before = file.read_bytes()
    assert add_finding(file, describe(), write_text)
    assert file.read_bytes().startswith(before)
    assert [model.id for model in read_index(file).models] == ["me/mine", "models/specimen"]


def test_the_same_finding_is_entered_once_and_another_one_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    assert add_finding(file, describe(), write_text)
    once = file.read_bytes()
    assert not add_finding(file, describe(created="2026-05-05T05:05:05+00:00"), write_text)
    assert file.read_bytes() == once
    # In the same second, but by another prompt.
    assert add_finding(file, describe(prompt="another prompt"), write_text)
    index = read_index(file)
    assert len({source.key for source in index.sources}) == len(index.sources) == 2
    [merged] = [model for model in open_index(file).models if model.id == "models/specimen"]
    assert len(merged.weights) == 1
    assert len(merged.weights[0].sources) == 2


def test_that_nothing_was_located_is_entered_too_and_only_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    none = make_location(Outcome.NONE)
    finding = describe_finding(make_identity(), none, tool="t", created="2026", settings={})
    assert add_finding(file, finding, write_text)
    assert not add_finding(file, finding, write_text)
    [model] = read_index(file).models
    assert model.weights == ()
    assert model.remarks[0].words == f"Outcome none: {none.because}."


def test_that_not_all_layers_were_read_is_entered_too(tmp_path: Path) -> None:
    add_finding(tmp_path / "mine.toml", describe(depth="early", layers_seen=4), write_text)
    [model] = read_index(tmp_path / "mine.toml").models
    assert model.remarks[0].words.endswith("; only the first 4 layers were read.")
    assert add_finding(tmp_path / "mine.toml", describe(), write_text)


def test_a_finding_is_looked_up_by_the_digest_of_the_weights(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    add_finding(file, describe(), write_text)
    lookup = find_published(open_index(file), "some/other-name", digests=make_identity().digests)
    assert lookup.match is Match.DIGEST
    assert lookup.model is not None
    assert len(lookup.model.weights) == 1
    assert find_published(open_index(file), "huggyllama/llama-7b").match is Match.LISTED


def test_what_was_found_before_the_weights_changed_does_not_count_for_the_new_ones(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    before, after = make_location(), make_location()
    moved = after.super_weights[0].model_copy(update={"column": after.super_weights[0].column + 1})
    after = after.model_copy(update={"super_weights": (moved,)})
    for digest, location in (("a" * 64, before), ("b" * 64, after)):
        identity = make_identity().model_copy(update={"digest": digest})
        finding = describe_finding(identity, location, tool="t", created="2026", settings={})
        assert add_finding(file, finding, write_text)
    for digest, location in (("a" * 64, before), ("b" * 64, after)):
        lookup = find_published(open_index(file), "any/name", digests=(digest,))
        assert lookup.model is not None
        assert [weight.column for weight in lookup.model.weights] == [location.super_weights[0].column]
        assert [source.finding and source.finding.digest for source in lookup.sources] == [digest]
    whole = find_published(open_index(file), make_identity().source).model
    assert whole is not None
    assert len(whole.weights) == 2


def test_a_folder_is_entered_by_its_full_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    identity = make_identity().model_copy(update={"source": "out"})
    finding = describe_finding(identity, make_location(), tool="t", created="2026", settings={})
    assert finding[1].id == str(tmp_path / "out")
    add_finding(tmp_path / "mine.toml", finding, write_text)
    assert find_published(open_index("mine.toml"), "./out").match is Match.LISTED


@pytest.mark.parametrize("text", ["", "x = 1\n", "{}", "[tool.poetry]\nname = 'x'\n", "# only a comment\n"])
def test_a_file_that_is_not_an_index_is_refused_and_not_touched(tmp_path: Path, text: str) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(text)
    with pytest.raises(IndexFileError):
        add_finding(file, describe(), write_text)
    assert file.read_text() == text
    assert list(tmp_path.iterdir()) == [file]


def test_an_index_whose_models_stand_inline_is_refused_and_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("sw-audit-index = 1\nmodel = [{ id = 'a' }]\n")
    with pytest.raises(OutputError, match=r"write its models as \[\[model\]\] tables"):
        add_finding(file, describe(), write_text)
    assert file.read_text() == "sw-audit-index = 1\nmodel = [{ id = 'a' }]\n"


def search_finding(search: CriticalSearch, impact: Trial = "bearing", created: str = "2026") -> Finding:
    location: Location = make_searched_location(impact)
    return describe_finding(make_identity(), location, tool="t", created=created, settings={}, search=search)


def test_scalars_that_a_search_found_to_matter_are_entered_with_their_effects(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    assert add_finding(file, search_finding(make_rich_search()), write_text)
    [model] = read_index(file).models
    weights = {str(weight): weight for weight in model.weights}
    [super_weight] = [name for name, weight in weights.items() if weight.is_scalar]
    assert weights[super_weight].parameter == LOCATED.parameter
    assert {name: weight.bearing for name, weight in weights.items()} == {
        super_weight: Impact.JOINTLY,  # alone x6.612, the set x22,603
        f"{NORM}[17]": Impact.ALONE,  # x22.35
        f"{GAIN}[5]": Impact.MINOR,  # x7.875
        f"{GAIN}[7]": Impact.MINOR,  # the pair x3.4
        f"{EMBEDDING}[11, 7]": Impact.MINOR,
        f"{GAIN}[9]": Impact.MINOR,
    }
    [effect] = weights[f"{NORM}[17]"].effects
    assert (effect.ratio, effect.source) == (22.35, model.weights[0].sources[0])
    assert effect.words == "perplexity x22.35 (wikitext, 2 windows of 96, interval 20.12 to 24.59)"
    assert weights[f"{NORM}[17]"].value == -1.2578125
    assert weights[f"{EMBEDDING}[11, 7]"].effects == ()
    assert "less of the damage" in weights[f"{GAIN}[9]"].note
    assert [effect.ratio for effect in model.effects] == [22603.0, 3.4, None]
    assert model.effects[1].words.startswith(f"{GAIN}[7], {EMBEDDING}[11, 7]: perplexity x3.4 (wikitext")
    assert "over that set by itself: perplexity x0.25" in model.effects[2].words
    assert make_rich_search().summary in model.remarks[1].words
    assert "what zeroing does was measured" in read_index(file).sources[0].note


def test_a_located_scalar_that_is_inert_is_a_remark_and_what_is_not_finite_a_collapse(tmp_path: Path) -> None:
    search = make_search(make_scalar(NORM, 1, ratio=None, layer=3))
    add_finding(tmp_path / "mine.toml", search_finding(search, "inert"), write_text)
    [model] = read_index(tmp_path / "mine.toml").models
    [weight] = model.weights
    assert (str(weight), weight.layer, weight.bearing) == (f"{NORM}[1]", 3, Impact.ALONE)
    assert weight.effects[0].words.startswith("perplexity not finite (")
    assert f"Located, and inert: {LOCATED}." in [remark.words for remark in model.remarks]


def test_what_masks_the_damage_of_others_carries_nothing_itself() -> None:
    mask = make_scalar(GAIN, 9, ratio=0.98, kind="masks", set=0)
    [_, weight] = search_finding(make_search(mask, sets=[make_set("masks", None, mask.address)]))[1].weights
    assert weight.bearing is Impact.MINOR


def test_what_a_search_did_not_try_stays_unmeasured() -> None:
    [weight] = search_finding(make_search(), "unconfirmed")[1].weights
    assert (weight.bearing, weight.effects) == (Impact.UNMEASURED, ())


def test_a_search_is_entered_beside_the_finding_without_one_and_only_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    plain = describe_finding(make_identity(), make_location(), tool="t", created="2026", settings={})
    assert add_finding(file, plain, write_text)
    assert add_finding(file, search_finding(make_rich_search()), write_text)
    assert not add_finding(file, search_finding(make_rich_search(), created="2027"), write_text)
    second = read_index(file).models[1]
    keys = {effect.source for weight in second.weights for effect in weight.effects}
    assert keys | {effect.source for effect in second.effects} == {read_index(file).sources[1].key}
    [merged] = [model for model in open_index(file).models if model.id == second.id]
    assert [weight.bearing for weight in merged.weights if weight.is_scalar] == [Impact.JOINTLY]


def test_effects_that_were_measured_before_the_weights_changed_do_not_count_for_the_new_ones(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mine.toml"
    for digest, search in (("a" * 64, make_rich_search()), ("b" * 64, make_search())):
        identity = make_identity().model_copy(update={"digest": digest})
        location = make_searched_location("unconfirmed")
        finding = describe_finding(identity, location, tool="t", created="2026", settings={}, search=search)
        assert add_finding(file, finding, write_text)
    model = find_published(open_index(file), "any/name", digests=("b" * 64,)).model
    assert model is not None
    [weight] = model.weights
    assert (weight.effects, model.effects) == ((), ())


def test_a_place_that_cannot_be_written_to_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        add_finding(tmp_path / "no" / "such" / "mine.toml", describe(), write_text)


def test_a_write_that_fails_leaves_the_old_index_and_no_lock(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(HAND_WRITTEN)

    def fail(_path: Path, _text: str) -> None:
        raise OutputError("x", "disk full", "free some")

    with pytest.raises(OutputError, match="disk full"):
        add_finding(file, describe(), fail)
    assert file.read_text() == HAND_WRITTEN
    assert list(tmp_path.iterdir()) == [file]


def test_a_lock_that_stays_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "_PATIENCE", 0.1)
    (tmp_path / "mine.toml.lock").touch()
    with pytest.raises(OutputError, match=r"it is locked by mine\.toml\.lock; wait .* or delete that file"):
        add_finding(tmp_path / "mine.toml", describe(), write_text)
    assert (tmp_path / "mine.toml.lock").exists()
    assert not (tmp_path / "mine.toml").exists()


def test_findings_added_at_once_by_many_threads_are_all_there(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    findings = [describe(prompt=f"prompt {number}") for number in range(12)]
    threads = [threading.Thread(target=add_finding, args=(file, finding, write_text)) for finding in findings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    prompts = {source.finding.prompt for source in read_index(file).sources if source.finding}
    assert prompts == {f"prompt {number}" for number in range(12)}
    assert len(read_index(file).models) == 12
    assert list(tmp_path.iterdir()) == [file]


ADDER = """
import sys
from pathlib import Path
from sw_audit.record.published import PublishedModel, Source
from sw_audit.index.growing import add_finding
from sw_audit.record.store import write_text

for number in range(5):
    key = f"{sys.argv[2]}-{number}"
    source = Source(key=key, title="t", trust="good")
    model = PublishedModel(id=key, remark=({"words": "w", "sources": (key,)},))
    add_finding(Path(sys.argv[1]), (source, model), write_text)
"""


def test_findings_added_at_once_by_several_programs_are_all_there(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    programs = [subprocess.Popen([sys.executable, "-c", ADDER, str(file), name]) for name in "abc"]
    assert [program.wait(timeout=60) for program in programs] == [0, 0, 0]
    assert {model.id for model in read_index(file).models} == {f"{name}-{n}" for name in "abc" for n in range(5)}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(prompt=TEXT, model_id=TEXT, number=st.floats(allow_nan=False, allow_infinity=False), flag=st.booleans())
@settings(max_examples=60, deadline=None)
def test_whatever_a_finding_says_comes_back_from_toml(
    prompt: str, model_id: str, number: float, flag: bool
) -> None:
    finding = LocalFinding(
        tool="t", created="c", digest="d", dtype="float32", prompt=prompt, bos=flag,
        settings={"number": number, "flag": flag, "word": prompt, "count": 3},
    )  # fmt: skip
    source = Source(key="K", title=prompt, trust="good", finding=finding)
    weight = {"layer": 0, "row": 1, "column": 2, "value": number, "bearing": Impact.UNMEASURED, "sources": ("K",)}
    model = PublishedModel(id=model_id, aliases=(prompt,), weight=(weight,))
    text = f"sw-audit-index = 1\n{encode_entry(source, model)}"
    assert tomllib.loads(text)
    index = parse_index(text, "x")
    assert index.sources == (source,)
    assert index.models == (model,)
