from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from sw_audit.errors import InputError, PolicyError
from sw_audit.measure.tasks import Answers, pair_answers, require_tasks
from sw_audit.policy.policy import DescentPolicy
from sw_audit.specimen.shipped import choices_path

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {items}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc_norm
  - metric: acc
metadata:
  version: 2.0
"""
IN_WORDS = """
task: {name}_in_words
dataset_path: json
dataset_kwargs:
  data_files: {items}
test_split: train
output_type: generate_until
doc_to_text: "{{{{context}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs:
  max_gen_toks: 6
  do_sample: false
  until: ["\\n\\n\\n"]
metric_list:
  - metric: exact_match
metadata:
  version: 1.0
"""
ANSWERS = Answers("stories", "2.0", "acc", ("a/0", "a/1", "a/2"), (True, False, True))

# The harness changes settings of the libraries under it when it is imported: it has a process of its own here.
PROGRAM = """
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.corpus.choices import read_choices
from sw_audit.policy.policy import CorpusPolicy, DescentPolicy, ModelPolicy
from sw_audit.measure.tasks import answer_tasks, pair_answers
from sw_audit.specimen.shipped import specimen_path
import torch

checkpoint = open_checkpoint(ModelPolicy(source=str(specimen_path())))
policy = DescentPolicy(lm_eval=("stories",), lm_eval_path=sys.argv[1], lm_eval_limit=24)
[parent] = answer_tasks(checkpoint, policy)
assert (parent.task, parent.version, parent.metric) == ("stories", "2.0", "acc"), parent


def score(item, choice):
    ids = checkpoint.tokenizer(f"{item.context} {choice}", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return checkpoint.model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]).sum()


items = read_choices(CorpusPolicy(source="specimen"))[:24]
likeliest = [max(range(len(item.choices)), key=lambda n: score(item, item.choices[n])) for item in items]
assert parent.right == tuple(n == item.answer for n, item in zip(likeliest, items)), parent.right
streamed = open_streaming(ModelPolicy(source=str(specimen_path())))
words = DescentPolicy(lm_eval=("stories_in_words",), lm_eval_path=sys.argv[1], lm_eval_limit=24)
presences = Counter()


def count(layer, bring_in):
    presences[layer.index] += 1
    return bring_in()


layers = streamed.layers
streamed.layers = tuple(replace(layer, bring_in=partial(count, layer, layer.bring_in)) for layer in layers)
assert answer_tasks(streamed, policy) == (parent,)
assert set(presences.values()) == {1}, presences
presences.clear()
assert answer_tasks(streamed, words) == answer_tasks(checkpoint, words)
assert set(presences.values()) == {2 * 6}, presences
with torch.no_grad():
    checkpoint.model.model.layers[1].mlp.down_proj.weight[5, 7] = 0.0
[pruned] = answer_tasks(checkpoint, policy)
[result] = pair_answers([parent], [pruned])
print(len(result.parent), sum(result.parent), sum(result.descendant))
"""


def write_task(folder: Path, name: str = "stories") -> Path:
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, items=choices_path()), encoding="utf-8")
    (folder / f"{name}_words.yaml").write_text(IN_WORDS.format(name=name, items=choices_path()), encoding="utf-8")
    return folder


def test_without_tasks_nothing_is_required() -> None:
    require_tasks(DescentPolicy())


def test_a_missing_harness_is_one_line_with_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(PolicyError, match=r"pip install 'sw-audit\[lm-eval\]'") as caught:
        require_tasks(DescentPolicy(lm_eval=("arc_easy",)))
    assert "\n" not in str(caught.value)


def test_answers_are_paired_item_by_item_and_what_only_one_was_asked_is_left_out() -> None:
    ours = Answers("stories", "2.0", "acc", ("a/2", "a/0", "a/9"), (False, True, True))
    [result] = pair_answers([ANSWERS], [ours])
    assert (result.parent, result.descendant) == ((True, True), (True, False))
    assert pair_answers([ANSWERS], []) == ()


needs_harness = pytest.mark.skipif(
    find_spec("lm_eval") is None, reason="needs lm-evaluation-harness: pip install 'sw-audit[lm-eval]'"
)


@needs_harness
@pytest.mark.slow
def test_the_harness_answers_with_the_open_model_as_one_would_by_hand(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(write_task(tmp_path))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    items, right, pruned = map(int, done.stdout.split())
    assert items == 24
    assert right >= 20
    assert pruned < right


@needs_harness
@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lm_eval": ("storeis",), "lm_eval_path": "{folder}"}, "write 'stories'"),
        ({"lm_eval": ("stories",), "lm_eval_path": "{folder}/none"}, "there is no folder"),
    ],
)
def test_a_task_that_there_is_not_is_one_line(tmp_path: Path, settings: dict[str, object], words: str) -> None:
    write_task(tmp_path)
    filled = {
        key: value.format(folder=tmp_path) if isinstance(value, str) else value for key, value in settings.items()
    }
    with pytest.raises(InputError, match=words) as caught:
        require_tasks(DescentPolicy.model_validate(filled))
    assert "\n" not in str(caught.value)
