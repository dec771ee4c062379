"""Where the time of a trainer of somebody else goes: a clock around its functions."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

PARTS = ("rollout", "scoring", "evaluation", "update")  # sampling; reward model; reference and values; the rest


class Clock:
    """Seconds by part. Inside a part that is measured nothing else is."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.busy = False

    def around(self, call: Callable[..., Any], part: Callable[..., str | None]) -> Callable[..., Any]:
        """The same function, its time added to the part that `part` names from its arguments; None: to none."""

        def measured(*args: Any, **kwargs: Any) -> Any:
            name = None if self.busy else part(*args, **kwargs)
            if name is None:
                return call(*args, **kwargs)
            self.busy, start = True, time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.busy = False
                self.seconds[name] += time.perf_counter() - start

        return measured

    def watch(self, owner: object, functions: Mapping[str, Callable[..., str | None]]) -> None:
        """Replace functions of a module or an object by themselves, measured."""
        for name, part in functions.items():
            setattr(owner, name, self.around(getattr(owner, name), part))

    def parts(self, total: float) -> dict[str, float]:
        """All parts; what was not measured is the update."""
        known = {part: self.seconds[part] for part in PARTS[:-1]}
        return {**known, PARTS[-1]: total - sum(known.values())}
