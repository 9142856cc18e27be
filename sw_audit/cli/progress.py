"""Where the work stands, as a bar on standard error; nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from sw_audit.progress import Progress


@contextmanager
def show_progress(name: str = "", *, quiet: bool = False) -> Iterator[Progress]:
    """Give what is called while work is done; what is shown goes away when it is done."""
    hidden = quiet or not sys.stderr.isatty()
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}"
    bar: Any = tqdm(total=0, desc=name, leave=False, file=sys.stderr, disable=hidden, bar_format=form, delay=1e-9)

    def show(stage: str, done: int, total: int) -> None:
        bar.total, bar.n = max(total, 1), done
        bar.set_description_str(f"{name}: {stage}" if name else stage, refresh=False)
        bar.refresh()

    with bar:
        yield show
