"""A tool that fails now and then, to see whether a tree recovers: it is out of order, or what it
was given arrives with a character lost."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.tools.contract import Tool, ToolError

COMPLAINTS = ("busy, try again", "the connection was lost", "its server is down", "out of time")


@dataclass(slots=True)
class Faulty:
    """`tool`, of which each call fails with probability `share`; the same calls for a seed."""

    tool: Tool
    share: float
    seed: int = 0
    failures: int = 0
    _rng: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ToolError(f"faults: a share from 0 to below 1 is wanted, {self.share} came")
        self._rng = random.Random(self.seed)

    @property
    def name(self) -> str:
        return self.tool.name

    @property
    def description(self) -> str:
        return self.tool.description

    @property
    def parameters(self) -> Mapping[str, Any]:
        return self.tool.parameters

    def __call__(self, **arguments: Any) -> Any:
        if self._rng.random() < self.share:
            self.failures += 1
            if self._rng.random() < 0.5:
                self.tool(**{name: self._garbled(str(v)) for name, v in arguments.items()})
            raise ToolError(self._rng.choice(COMPLAINTS))
        return self.tool(**arguments)

    def _garbled(self, text: str) -> str:
        lost = self._rng.randrange(max(1, len(text)))
        return text[:lost] + text[lost + 1 :]
