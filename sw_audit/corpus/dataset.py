"""Data sets by name, through the `datasets` library, without its long wait for a hub that does not answer.

`datasets` is imported where it is called: that takes a second, and most texts are files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import huggingface_hub.constants as hub
from huggingface_hub import HfApi
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from sw_audit.errors import CorpusError
from sw_audit.policy.policy import CorpusPolicy

# How long the hub may take to say whether a data set exists, in seconds.
_PATIENCE = 5.0


def read_data_set(corpus: CorpusPolicy) -> list[Any]:
    """Read one column of one split.

    Without a connection, or with `HF_HUB_OFFLINE`, the data set has to be in the cache.

    Raises:
        CorpusError: If there is no such data set, configuration, split or column, or it cannot be reached.
    """
    asked = f"data set {corpus.source!r}"
    offline = _ask_hub(corpus, asked)
    with _quiet_datasets(offline=offline is not None):
        import datasets

        try:
            dataset = datasets.load_dataset(
                corpus.source, corpus.config, split=corpus.split, revision=corpus.revision
            )
        except Exception as error:  # builders raise nearly everything
            raise _refuse(asked, error, offline, corpus) from error
    if corpus.field not in dataset.column_names:
        columns = ", ".join(repr(name) for name in dataset.column_names)
        remedy = "name a column of text in corpus.field"
        raise CorpusError(asked, f"no column {corpus.field!r}, only {columns}", remedy)
    return list(dataset[corpus.field])


def _ask_hub(corpus: CorpusPolicy, asked: str) -> str | None:
    """Ask the hub once whether a data set exists; return why the hub cannot be used, or `None` if it can."""
    if is_offline_mode():
        return "the hub is switched off by HF_HUB_OFFLINE"
    try:
        HfApi().dataset_info(corpus.source, revision=corpus.revision, timeout=_PATIENCE)
    except GatedRepoError as error:
        remedy = "ask for access on the hub, then log in with `hf auth login`"
        raise CorpusError(asked, "access to this data set is restricted", remedy) from error
    except RepositoryNotFoundError as error:
        remedy = "correct the path or the name; for a private data set log in with `hf auth login`"
        raise CorpusError(asked, "neither a file here nor a data set on the hub", remedy) from error
    except RevisionNotFoundError as error:
        problem = f"it has no revision {corpus.revision!r}"
        raise CorpusError(asked, problem, "name a branch, a tag or a commit of it") from error
    except ValueError as error:
        remedy = "correct the path, or name a data set such as Salesforce/wikitext"
        raise CorpusError(asked, "neither a file here nor the name of a data set", remedy) from error
    except Exception as error:  # httpx, urllib3 and the system each have their own for a lost connection
        return f"the hub cannot be reached ({type(error).__name__})"
    return None


@contextmanager
def _quiet_datasets(*, offline: bool) -> Iterator[None]:
    """Silence `datasets`, keep it off the network if asked, and leave its settings as they were."""
    import datasets
    from datasets.utils import logging

    verbosity, bars = logging.get_verbosity(), datasets.are_progress_bars_disabled()
    settings = hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    if offline:
        hub.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = settings
        logging.set_verbosity(verbosity)
        if not bars:
            datasets.enable_progress_bars()


def _refuse(asked: str, error: Exception, offline: str | None, corpus: CorpusPolicy) -> CorpusError:
    message = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(". ")
    if offline is not None:
        problem = f"no file of that name here, nothing in the cache, and {offline}"
        return CorpusError(asked, problem, "correct the path, or give a local text file in corpus.source")
    if "split" in message.lower():
        problem = f"no split {corpus.split!r} ({message})"
        return CorpusError(asked, problem, "name one of its splits in corpus.split")
    if "config" in message.lower():
        problem = f"no configuration {corpus.config!r} ({message})" if corpus.config else message
        return CorpusError(asked, problem, "name one of its configurations in corpus.config")
    problem = f"it cannot be loaded ({type(error).__name__}: {message})"
    return CorpusError(asked, problem, "give a local text file in corpus.source")
