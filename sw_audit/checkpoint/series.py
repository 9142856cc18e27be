"""The checkpoints of a training run: which folders are some, in which order, and what one lacks to be whole."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypeAlias

from sw_audit.checkpoint.folder import WEIGHTS, CheckpointFolder, one_line_damage
from sw_audit.checkpoint.formats.adapter import ADAPTER_CONFIG
from sw_audit.errors import CheckpointError
from sw_audit.policy.model_policy import ModelPolicy

_CONFIGS = ("config.json", ADAPTER_CONFIG)
# Hidden, or what transformers writes a checkpoint into before it gives it its name.
_DRAFTS = (".", "tmp-")
_NUMBERED = re.compile(r"(.*?)([0-9]+)", re.DOTALL)

FolderState: TypeAlias = tuple[tuple[str, int, int], ...]
"""Names of what lies in a folder, with bytes, and in nanoseconds when each was changed last."""


class SeriesMember(NamedTuple):
    """A folder with a checkpoint's configuration: when that was written, in nanoseconds, and how the folder is."""

    path: Path
    written: int
    state: FolderState

    @property
    def awaits_trainer(self) -> bool:
        """Whether transformers' trainer has written the model, and not yet what it writes last."""
        names = {name for name, _, _ in self.state}
        return "training_args.bin" in names and "trainer_state.json" not in names


def list_series(folder: Path, parent: str | None = None) -> list[SeriesMember]:
    """List the checkpoints in a folder, in their order (`order_series`), also those that are not whole yet.

    A checkpoint is a folder with a `config.json`, or an adapter's. Drafts are left out, links to others in the
    same folder, such as `latest`, and the parent, where it lies there too.

    Raises:
        CheckpointError: If there is no such folder, or it cannot be read.
    """
    try:
        paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(_DRAFTS)]
    except OSError as error:
        found = "there is no such folder" if not folder.exists() else error.strerror or type(error).__name__
        remedy = "give the folder that a training run writes its checkpoints into"
        raise CheckpointError(f"folder {str(folder)!r}", found, remedy) from error
    above, home = None if parent is None else Path(parent).expanduser().resolve(), folder.resolve()
    chosen = [
        path
        for path in paths
        if path.is_dir() and path.resolve() != above and not (path.is_symlink() and path.resolve().parent == home)
    ]
    return order_series(member for path in chosen if (member := look_at_member(path)) is not None)


def look_at_member(path: Path) -> SeriesMember | None:
    """Look at a folder as it is now; `None` if it is no checkpoint, or not any more."""
    try:
        with os.scandir(path) as entries:
            found = ((entry.name, entry.stat()) for entry in entries)
            state = tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in found))
    except OSError:  # taken away, or not finished, while it is looked at
        return None
    written = [modified for name, _, modified in state if name in _CONFIGS]
    return SeriesMember(path, max(written), state) if written else None


def order_series(members: Iterable[SeriesMember]) -> list[SeriesMember]:
    """Order checkpoints by number if all have one (`is_numbered`), else by when they were written."""
    listed = sorted(members)
    if is_numbered(member.path for member in listed):
        return sorted(listed, key=lambda member: int(_NUMBERED.fullmatch(member.path.name)[2]))  # type: ignore[index]
    return sorted(listed, key=lambda member: member.written)


def is_numbered(paths: Iterable[Path]) -> bool:
    """Tell whether names differ in a number at their end alone, as `checkpoint-500` and `checkpoint-1000` do."""
    matches = [_NUMBERED.fullmatch(path.name) for path in paths]
    return len({match and match[1] for match in matches}) == 1 and None not in matches


def find_lack(model: ModelPolicy) -> str | None:
    """Say what keeps a local checkpoint from being whole, as a clause; `None` if nothing does.

    Its configuration reads, all files of weights are there, each is as long as its header says, and the index
    promises nothing that they do not hold. No weight is read.
    """
    try:
        folder = CheckpointFolder.require(model)
        with one_line_damage(folder):
            if folder.format.uses_config:
                _ = folder.config
            if folder.headers and WEIGHTS not in folder.headers:
                for tensor, shard in folder.index.items():
                    if tensor not in folder.headers.get(shard, ()):
                        return f"the index promises tensor {tensor!r} in {shard}, which does not hold it"
    except CheckpointError as error:
        return error.found
    return None
