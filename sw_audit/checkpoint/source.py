"""Where the files of a checkpoint are: a folder here, or a snapshot of a hub repository."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from sw_audit.errors import CheckpointError
from sw_audit.policy.policy import ModelPolicy

# How long the hub may take to say whether a repository exists, in seconds.
_PATIENCE = 5.0
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_ALLOW_PICKLE = "convert it to safetensors, or set allow_pickle = true if you trust whoever made it"


def find_folder(wanted: ModelPolicy, *, fetch: bool) -> Path | None:
    """Find the folder of a checkpoint; a local path is never looked up on the network.

    Args:
        wanted: The model, by path or hub id.
        fetch: Whether a hub repository may be downloaded. If not, the answer for one is `None`, unless the
            hub is switched off (`HF_HUB_OFFLINE`): then it is the cached snapshot.

    Raises:
        CheckpointError: If there is no such folder or repository, or it cannot be reached.
    """
    path = Path(wanted.source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        remedy = "give the folder of a checkpoint"
        raise CheckpointError(quote_source(wanted), "this is a file", remedy)
    if not _HUB_ID.fullmatch(wanted.source):
        remedy = "correct the path, or give a hub id such as owner/name"
        raise CheckpointError(quote_source(wanted), "there is no such folder", remedy)

    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        return _find_cached(wanted, "the hub is switched off by HF_HUB_OFFLINE")
    return _fetch(wanted) if fetch else None


def choose_files(names: Iterable[str], wanted: ModelPolicy) -> list[str]:
    """Choose what to download of a repository: weights in one format, configuration and tokenizer, no code.

    Args:
        names: Paths of all files in the repository.
        wanted: Whether pickles and code are allowed.

    Raises:
        CheckpointError: If the weights are there as pickles only and these are not allowed.
    """
    # Subfolders hold the same weights again in formats of other programs, as `consolidated` files do.
    here = [name for name in names if "/" not in name and not name.startswith("consolidated")]
    weights = [name for name in here if name.endswith(".safetensors")]
    pickles = [name for name in here if name.endswith(".bin")]
    if not weights and pickles:
        if not wanted.allow_pickle:
            raise refuse_pickle(wanted, pickles)
        weights = pickles
    suffixes = (*_TEXT_SUFFIXES, ".py") if wanted.trust_remote_code else _TEXT_SUFFIXES
    return [*weights, *(name for name in here if name.endswith(suffixes))]


def refuse_pickle(wanted: ModelPolicy, names: Iterable[str]) -> CheckpointError:
    """Say that weights exist as pickles only, why these are not read, and which option allows it."""
    example = min(names)
    found = f"no safetensors, only {example}, a pickle, which can run code when it is read"
    return CheckpointError(quote_source(wanted), found, _ALLOW_PICKLE)


def quote_source(wanted: ModelPolicy) -> str:
    """Say which model was asked for, as errors begin."""
    return f"model {wanted.source!r}"


def _fetch(wanted: ModelPolicy) -> Path:
    """Download what is needed of a repository; without a connection the cached snapshot has to do."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        # One short question first: the download itself would try again and again without a connection.
        info = HfApi().model_info(wanted.source, revision=wanted.revision, timeout=_PATIENCE)
        chosen = choose_files([file.rfilename for file in info.siblings or ()], wanted)
        return Path(snapshot_download(wanted.source, revision=wanted.revision, allow_patterns=chosen))
    except CheckpointError:
        raise
    except GatedRepoError as error:
        remedy = "ask for access on the hub, then log in with `hf auth login`"
        raise CheckpointError(quote_source(wanted), "access to this repository is restricted", remedy) from error
    except RepositoryNotFoundError as error:
        remedy = "correct the path or the hub id; for a private repository log in with `hf auth login`"
        raise CheckpointError(
            quote_source(wanted), "neither a folder here nor a model on the hub", remedy
        ) from error
    except RevisionNotFoundError as error:
        found = f"the repository has no revision {wanted.revision!r}"
        raise CheckpointError(quote_source(wanted), found, "name a branch, a tag or a commit of it") from error
    except Exception as error:  # httpx, urllib3 and the system each have their own for a lost connection
        return _find_cached(wanted, f"the hub cannot be reached ({type(error).__name__})", error)


def _find_cached(wanted: ModelPolicy, reason: str, cause: Exception | None = None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(wanted.source, revision=wanted.revision, local_files_only=True))
    except Exception as error:
        found = f"no such folder here, no snapshot in the cache, and {reason}"
        remedy = "correct the path, or download the model while there is a connection"
        raise CheckpointError(quote_source(wanted), found, remedy) from (cause or error)
