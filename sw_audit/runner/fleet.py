"""How many of several models are done, failing and left, and when the last of them will be done."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import datetime, timedelta
from statistics import mean

from sw_audit.checks.explain import breaches
from sw_audit.record.verdict import Verdict


class Fleet:
    """Told of each model as it begins and as it is done, in any order.

    Attributes:
        sizes: The models, by whatever tells them apart, each with the bytes of its weights, which say how long it
            takes beside others; one of which they are not known counts as the mean of the others.
        failing: How many of those that are done fail a gate, or could not be audited.
        show: Called without arguments after each model that is done.
    """

    def __init__(self, sizes: Mapping[Hashable, int | None], show: Callable[[], None] = lambda: None) -> None:
        self.sizes = dict(sizes)
        self.failing = 0
        self.show = show
        known = [size for size in sizes.values() if size]
        usual = mean(known) if known else 1
        self._shares = {model: size or usual for model, size in sizes.items()}
        self._created = time.monotonic()
        self._begun: dict[Hashable, float] = {}
        self._ended: dict[Hashable, float] = {}
        self._recalled: set[Hashable] = set()

    def started(self, model: Hashable) -> None:
        """Take note that a model begins; one that was lost and runs again has begun before."""
        self._begun.setdefault(model, time.monotonic())

    def finished(self, model: Hashable, verdicts: Iterable[Verdict] | None, *, recalled: bool = False) -> None:
        """Take note that a model is done; of one that is done already, nothing.

        Args:
            model: Which.
            verdicts: What was concluded; `None` if it could not be audited.
            recalled: Whether it was in the cache, so that it tells nothing of how long others take.
        """
        failing = verdicts is None or any(breaches(verdict, "warn") for verdict in verdicts)
        self.ended(model, failing=failing, recalled=recalled)

    def ended(self, model: Hashable, *, failing: bool, recalled: bool = False) -> None:
        """Take note that a model is done, where it is known whether it fails; see `finished`."""
        if model in self._ended:
            return
        self.failing += failing
        if recalled:
            self._recalled.add(model)
        self._ended[model] = time.monotonic()
        self.show()

    @property
    def done(self) -> int:
        """How many models are done."""
        return len(self._ended)

    @property
    def left(self) -> int:
        """How many are not, those that run included."""
        return len(self.sizes) - self.done

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the last is done if bytes go on as so far; `None` where none was measured."""
        ended = {model: moment for model, moment in self._ended.items() if model not in self._recalled}
        if not ended or not self.left:
            return None
        begun, last = min(self._begun.get(model, self._created) for model in ended), max(ended.values())
        ahead = sum(share for model, share in self._shares.items() if model not in self._ended)
        pace = (last - begun) / sum(self._shares[model] for model in ended)
        return max(pace * ahead - (time.monotonic() - last), 0.0)

    def tell(self) -> str:
        """Say it in a line, such as `12 of 200 models done, 2 failing, 188 left, ends about 14:35`."""
        words = [f"{self.done} of {len(self.sizes)} models done"]
        words += [f"{self.failing} failing"] if self.failing else []
        words += [f"{self.left} left"] if self.left else []
        if (seconds := self.seconds_left) is not None:
            now = datetime.fromtimestamp(time.time())
            end = now + timedelta(seconds=seconds)
            words.append(f"ends about {end:%H:%M}{'' if end.date() == now.date() else f' on {end:%Y-%m-%d}'}")
        return ", ".join(words)
