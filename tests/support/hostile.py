"""A record whose every text that came from outside is one that was made up to break out of a document."""

from __future__ import annotations

from datetime import date

from hypothesis import strategies as st
from support.descent import make_descent_evidence
from support.evidence import compose

from sw_audit.policy.model_policy import Waiver
from sw_audit.policy.origin import PolicyOrigin
from sw_audit.record.record import ModelFailure, Record
from sw_audit.record.verdict import Status, Verdict

_PIECES = (
    *("<b>&amp;\"'", "]]>", "<!--", "</script>", "\x1b[31m", "\x00", "\ud800", "\ufffe", "\u202e", "\u2028", "\r"),
    *("\n", "\n---\n", "```", "|", "[x](http://evil.test)", "{0}", "*", "#", ": ", "%s", "\\", "a", "\U0001f600"),
)


def hostile_texts() -> st.SearchStrategy[str]:
    """Draw texts of what is special in some format, and of anything else."""
    special = st.lists(st.sampled_from(_PIECES), min_size=1, max_size=6).map("".join)
    return special | st.text(st.characters(codec=None), min_size=1, max_size=20)


def make_hostile(text: str) -> Record:
    """Return a record of a descendant, waived and failing, and of a model that could not be audited."""
    waiver = Waiver.model_construct(check="*", model="*", until=date(2999, 1, 1), owner=text, reason=text)
    pair = make_descent_evidence()
    named = {"id": text, "source": text, "revision": text, "family": text, "architecture": text, "digest": text}
    files = tuple(file.model_copy(update={"path": text, "sha256": text}) for file in pair.model.files)
    identity = pair.model.model_copy(update={**named, "files": files})
    corpus = pair.protocol.corpus.model_copy(update={"name": text})
    protocol = pair.protocol.model_copy(update={"corpus": corpus, "tokenizer": text})
    verdicts = tuple(
        Verdict.model_construct(
            check=check,
            model=text,
            status=status,
            observed=2.5,
            low=2.0,
            high=3.0,
            limit=1.1,
            quantity=text,
            because=text,
            remedy=text,
            coordinates=(text,),
            protocol=protocol.signature,
            waiver=held,
        )
        for check, status, held in (
            ("perplexity-ratio", Status.FAIL, None),
            (text, Status.INCONCLUSIVE, None),
            (f"{text}!", Status.FAIL, waiver),
        )
    )
    assert pair.descent is not None
    descent = pair.descent.model_copy(update={"parent": identity.model_copy(update={"id": f"parent {text}"})})
    changes = {"model": identity, "protocol": protocol, "descent": descent, "verdicts": verdicts, "notes": (text,)}
    failure = ModelFailure.model_construct(model=f"{text} gone", message=text, checks=("perplexity-ratio", text))
    origin = PolicyOrigin.model_construct(path=text, models={text: 3}, checks={text: 7}, waivers=(9,), whole=True)
    return compose(pair.model_copy(update=changes), failure, created=text, origin=origin)
