"""What was measured is found again by what it rests on, survives damage, and is measured in parts."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support.evidence import make_evidence, make_measurement

from sw_audit.errors import OutputError
from sw_audit.progress import ignore_progress
from sw_audit.record.arm import BASELINE, Arm, Custom, QuantizeActivations, Scale
from sw_audit.record.measurement import Look, Measurement
from sw_audit.record.record import ModelResult
from sw_audit.runner.cache import ARMS_AT_ONCE, NO_CACHE, STAGED, ArmCache, Cache, digest_program, open_cache
from sw_audit.stopping import StoppedError, Stopper

QUESTION = {"model": {"content": ["ab"]}, "seed": 0}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def list_entries(cache: Cache) -> list[Path]:
    return sorted(cache.folder.rglob("*.json"))


def test_an_answer_is_found_again_by_an_equal_question_and_by_no_other(cache: Cache) -> None:
    answer = make_evidence()
    assert cache.find("evidence", QUESTION, ModelResult) is None
    cache.keep("evidence", QUESTION, answer)
    again = {"seed": 0, "model": {"content": ["ab"]}}  # the order of keys is no part of a question
    assert cache.find("evidence", again, ModelResult) == answer
    for other in ({**QUESTION, "seed": 1}, {**QUESTION, "model": {"content": ["ac"]}}, {"seed": 0}):
        assert cache.find("evidence", other, ModelResult) is None
    assert cache.find("arm", QUESTION, Measurement) is None
    assert cache.found == [False, True, False, False, False, False]


def test_the_folder_says_that_it_is_a_cache_and_that_git_is_to_leave_it_alone(cache: Cache) -> None:
    cache.keep("evidence", QUESTION, make_evidence())
    assert (cache.folder / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    assert (cache.folder / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda _: "",
        lambda _: "[]",
        lambda text: text.replace('"token":0', '"token":1', 1),
        lambda text: text.replace('"answer"', '"other"', 1),
        lambda text: text.replace('"form":1', '"form":2', 1),
    ],
    ids=["truncated", "empty", "another kind", "one figure changed", "no answer", "another form"],
)
def test_a_damaged_entry_is_none_and_is_replaced(cache: Cache, damage: object) -> None:
    answer = make_evidence()
    cache.keep("evidence", QUESTION, answer)
    [entry] = list_entries(cache)
    whole = entry.read_text(encoding="utf-8")
    broken = damage(whole)  # type: ignore[operator]
    assert broken != whole
    entry.write_text(broken, encoding="utf-8")
    assert cache.find("evidence", QUESTION, ModelResult) is None
    cache.keep("evidence", QUESTION, answer)
    assert entry.read_text(encoding="utf-8") == whole


def test_a_byte_that_is_lost_or_another_anywhere_makes_an_entry_none(cache: Cache) -> None:
    cache.keep("look", QUESTION, Look(windows=4, items=8))
    [entry] = list_entries(cache)
    whole = entry.read_bytes()
    for place in range(len(whole)):
        for broken in (
            whole[:place] + whole[place + 1 :],
            whole[:place],
            *(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :] for bit in range(8)),
        ):
            entry.write_bytes(broken)
            assert cache.find("look", QUESTION, Look) is None, (place, broken)
    entry.write_bytes(whole)
    assert cache.find("look", QUESTION, Look) == Look(windows=4, items=8)


def test_an_entry_under_the_name_of_another_question_is_none(cache: Cache) -> None:
    cache.keep("look", QUESTION, Look(windows=4))
    [first] = list_entries(cache)
    cache.keep("look", {"other": 1}, Look(windows=5))
    [second] = [path for path in list_entries(cache) if path != first]
    second.write_bytes(first.read_bytes())
    assert cache.find("look", {"other": 1}, Look) is None


KEEPING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support.evidence import make_evidence
from sw_audit.runner.cache import Cache
for _ in range(12):
    Cache(Path(sys.argv[2])).keep("evidence", {question}, make_evidence())
"""


@pytest.mark.slow
def test_two_runs_at_once_leave_one_whole_entry_and_a_reader_never_sees_half_of_one(cache: Cache) -> None:
    command = [sys.executable, "-c", KEEPING.replace("{question}", repr(QUESTION))]
    command += [str(Path(__file__).parents[1]), str(cache.folder)]
    runs = [subprocess.Popen(command) for _ in range(2)]
    seen = [cache.find("evidence", QUESTION, ModelResult)]
    while any(run.poll() is None for run in runs):
        seen.append(cache.find("evidence", QUESTION, ModelResult))
    assert [run.returncode for run in runs] == [0, 0]
    first = next(place for place, found in enumerate([*seen, 1]) if found is not None)
    assert all(found == make_evidence() for found in seen[first:])
    assert cache.find("evidence", QUESTION, ModelResult) == make_evidence()
    assert len(list_entries(cache)) == 1
    assert list(cache.folder.rglob("*.tmp")) == []


def test_a_place_that_cannot_be_written_keeps_nothing_and_says_why_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file")
    cache.keep("evidence", QUESTION, make_evidence())
    assert cache.trouble is not None
    assert "file" in cache.trouble
    assert cache.find("evidence", QUESTION, ModelResult) is None


def test_only_a_folder_that_was_named_is_complained_about(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="name another folder, or --no-cache"):
        open_cache(tmp_path / "file" / "cache", asked=True)
    assert open_cache(tmp_path / "file" / "cache", asked=False).trouble is None
    assert open_cache(tmp_path / "new" / "cache", asked=True).folder == tmp_path / "new" / "cache"
    assert not (tmp_path / "new").exists()


def make_arms(count: int) -> list[Arm]:
    """Return the baseline and so many arms."""
    return [
        BASELINE,
        *(Arm(purpose=Custom(label=f"a{n}"), acts=(Scale(addresses=(), factor=float(n)),)) for n in range(count)),
    ]


class Bench:
    """Measures made-up figures, notes what it was asked for, and may break off."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.asked: list[list[str]] = []
        self._breaks_at = breaks_at

    def __call__(self, arms: Sequence[Arm]) -> tuple[Measurement, ...]:
        if len(self.asked) == self._breaks_at:
            raise KeyboardInterrupt
        self.asked.append([arm.name for arm in arms])
        return tuple(make_measurement(arm, 1.5, model_id="here") for arm in arms)


def recall(memory: ArmCache, arms: Sequence[Arm], bench: Bench, **more: object) -> tuple[Measurement, ...]:
    part = {"begin": Look(windows=0), "end": Look(windows=4, items=8)}
    said = {"model_id": "here", "protocol": "p", "answering": (BASELINE.purpose,), **part, **more}
    return memory.recall_arms(arms, bench, **said)  # type: ignore[arg-type]


def test_without_a_cache_all_arms_are_measured_together() -> None:
    bench, arms = Bench(), make_arms(40)
    found = recall(NO_CACHE, arms, bench)
    assert [one.arm for one in found] == arms
    assert len(bench.asked) == 1


def test_arms_are_measured_once_some_at_a_time_each_time_with_the_baseline(cache: Cache) -> None:
    memory, arms, bench = ArmCache(cache, QUESTION), make_arms(2 * ARMS_AT_ONCE + 3), Bench()
    found = recall(memory, arms, bench)
    assert [one.arm for one in found] == arms
    assert [len(asked) for asked in bench.asked] == [1 + ARMS_AT_ONCE, 1 + ARMS_AT_ONCE, 1 + 3]
    assert {asked[0] for asked in bench.asked} == {BASELINE.name}
    again = Bench()
    assert recall(memory, arms, again) == found
    assert again.asked == []


def test_a_run_that_was_broken_off_goes_on_where_it_stopped(cache: Cache) -> None:
    memory, arms = ArmCache(cache, QUESTION), make_arms(3 * ARMS_AT_ONCE)
    with pytest.raises(KeyboardInterrupt):
        recall(memory, arms, Bench(breaks_at=2))
    rest = Bench()
    found = recall(memory, arms, rest)
    assert rest.asked == [[BASELINE.name, *(arm.name for arm in arms[1 + 2 * ARMS_AT_ONCE :])]]
    assert [one.arm for one in found] == arms


def test_an_arm_that_is_new_is_measured_alone(cache: Cache) -> None:
    memory, bench = ArmCache(cache, QUESTION), Bench()
    recall(memory, make_arms(3), Bench())
    recall(memory, make_arms(4), bench)
    assert bench.asked == [[BASELINE.name, "a3"]]


def test_the_baseline_alone_is_remembered_too(cache: Cache) -> None:
    first, second = Bench(), Bench()
    for bench in (first, second):
        recall(ArmCache(cache, QUESTION), [BASELINE], bench)
    assert (first.asked, second.asked) == ([[BASELINE.name]], [])


@pytest.mark.parametrize(
    "other",
    [
        {"memory": {"model": {**QUESTION, "seed": 1}}},
        {"memory": {"text": {"stop_words": ["a"]}}},
        {"said": {"protocol": "q"}},
        {"said": {"begin": Look(windows=2)}},
        {"said": {"end": Look(windows=8, items=8)}},
        {"said": {"answering": (BASELINE.purpose, Custom(label="a0"))}, "memory": {"text": {"choices": "x"}}},
    ],
    ids=["model", "text", "protocol", "beginning", "end", "answers"],
)
def test_whatever_an_arm_rests_on_is_part_of_its_question(
    cache: Cache, other: dict[str, dict[str, object]]
) -> None:
    recall(ArmCache(cache, QUESTION), make_arms(1), Bench())
    bench = Bench()
    said = {"model": QUESTION, **other.get("memory", {})}
    recall(ArmCache(cache, **said), make_arms(1), bench, **other.get("said", {}))  # type: ignore[arg-type]
    assert bench.asked == [[BASELINE.name, "a0"]]


def test_calibration_text_matters_only_to_arms_that_learn_from_it(cache: Cache) -> None:
    learning = Arm(purpose=Custom(label="w8a8"), acts=(QuantizeActivations(bits=8),))
    arms, bench = [*make_arms(1), learning], Bench()
    recall(ArmCache(cache, QUESTION, {"calibration": 16}), arms, Bench())
    recall(ArmCache(cache, QUESTION, {"calibration": 32}), arms, bench)
    assert bench.asked == [[BASELINE.name, "w8a8"]]


def test_a_model_of_another_name_remembers_under_its_own(cache: Cache) -> None:
    memory, bench = ArmCache(cache, QUESTION), Bench()
    recall(memory, make_arms(1), Bench())
    assert {one.model for one in recall(memory, make_arms(1), bench, model_id="there")} == {"there"}
    assert bench.asked == []


def test_what_an_audit_adds_is_nobody_elses_until_its_files_were_looked_at_again(cache: Cache) -> None:
    mine = cache.stage("state")
    mine.keep("evidence", QUESTION, make_evidence())
    assert mine.find("evidence", QUESTION, ModelResult) == make_evidence()
    assert cache.find("evidence", QUESTION, ModelResult) is None
    assert cache.stage("another state").find("evidence", QUESTION, ModelResult) is None
    mine.confirm()
    assert cache.find("evidence", QUESTION, ModelResult) == make_evidence()
    assert not (cache.folder / STAGED).exists()


def test_what_a_killed_audit_left_serves_one_of_the_same_files_and_goes_when_that_ends(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.stage("state").keep("evidence", QUESTION, make_evidence())
    monkeypatch.setattr("sw_audit.leftovers._is_running", lambda _: False)
    again = cache.stage("state")
    assert again.find("evidence", QUESTION, ModelResult) == make_evidence()
    again.confirm()
    assert cache.found == [True]
    assert cache.find("evidence", QUESTION, ModelResult) == make_evidence()
    assert not (cache.folder / STAGED).exists()


def test_what_was_kept_of_files_that_changed_is_let_go_and_what_others_keep_is_not(cache: Cache) -> None:
    mine, theirs = cache.stage("state"), cache.stage("state")
    mine.keep("evidence", QUESTION, make_evidence())
    theirs.keep("evidence", {"other": 1}, make_evidence())
    mine.discard()
    assert mine.find("evidence", QUESTION, ModelResult) is None
    theirs.confirm()
    assert len(list_entries(cache)) == 1


def test_an_entry_carries_its_question_for_people_who_wonder(cache: Cache) -> None:
    cache.keep("evidence", QUESTION, make_evidence())
    [entry] = list_entries(cache)
    assert json.loads(entry.read_text(encoding="utf-8"))["question"] == QUESTION


def test_the_program_has_a_digest() -> None:
    assert len(digest_program()) == 64
    assert digest_program() == digest_program()


def ask_together(cache: Cache, count: int, make: Callable[[], ModelResult]) -> list[ModelResult]:
    """Ask the same from audits of several models at once."""
    barrier, answers = threading.Barrier(count), []

    def ask(number: int) -> None:
        memory = ArmCache(cache.stage(f"state {number}"))
        barrier.wait()
        answers.append(memory.recall_shared("evidence", QUESTION, ModelResult, make, ignore_progress))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_what_several_audits_ask_at_once_is_answered_by_one(cache: Cache) -> None:
    made = []

    def make() -> ModelResult:
        made.append(threading.get_ident())
        time.sleep(0.3)
        return make_evidence()

    assert ask_together(cache, 3, make) == [make_evidence()] * 3
    assert len(made) == 1


def test_an_answer_about_files_that_changed_meanwhile_is_shared_with_nobody(cache: Cache) -> None:
    mine = cache.stage("state", lambda: "it changed")
    ArmCache(mine).recall_shared("evidence", QUESTION, ModelResult, make_evidence, ignore_progress)
    assert cache.find("evidence", QUESTION, ModelResult) is None


def test_who_waits_for_an_answer_can_be_stopped_and_a_killed_process_is_not_waited_for(cache: Cache) -> None:
    script = (
        "import sys, time; from sw_audit.runner.cache import Cache; from pathlib import Path\n"
        "with Cache(Path(sys.argv[1])).answering('evidence', {'seed': 0}, print):\n"
        "    print('there', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, cache.folder], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"there\n"
        stopper = Stopper(budget=0.0)
        with pytest.raises(StoppedError), cache.answering("evidence", {"seed": 0}, stopper.watch(ignore_progress)):
            pass
        holder.kill()
    told: list[str] = []
    with cache.answering("evidence", {"seed": 0}, lambda stage, *_: told.append(stage)):
        pass
    assert told == []


def test_where_nothing_can_be_locked_everybody_answers(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = []

    def make() -> ModelResult:
        made.append(1)
        return make_evidence()

    assert ask_together(Cache(tmp_path / "file" / "cache"), 2, make) == [make_evidence()] * 2
    assert len(made) == 2
