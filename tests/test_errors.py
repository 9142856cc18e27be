"""Every complaint about input is one line, whatever it quotes."""

from __future__ import annotations

import pickle

from sw_audit.errors import BrokenWeightsError, InputError


def test_what_was_asked_what_was_found_and_what_to_do_are_one_line() -> None:
    error = InputError("model 'a\nb'", "it is\n  not there", "name\r\nanother")
    assert str(error) == "model 'a b': it is not there; name another"


def test_an_error_crosses_the_border_of_a_process_whole() -> None:
    error = BrokenWeightsError("model 'a'", "a tensor is missing", "copy it again", "missing-tensor", "head")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - its own bytes
    assert (str(again), again.kind, again.where) == (str(error), "missing-tensor", "head")
