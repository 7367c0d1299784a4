"""A table of keys and values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.tools.contract import ToolError


@dataclass(frozen=True, slots=True)
class Lookup:
    """`table` maps each key to a JSON value; `parameter` is the name under which a tree gives the
    key."""

    table: Mapping[str, Any]
    name: str = "lookup"
    parameter: str = "key"
    description: str = "Value stored under a key."

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {
            "type": "object",
            "properties": {self.parameter: {"type": "string"}},
            "required": [self.parameter],
            "additionalProperties": False,
        }

    def __call__(self, **arguments: Any) -> Any:
        key = str(arguments[self.parameter])
        if key not in self.table:
            raise ToolError(f"there is nothing under {key!r}")
        return self.table[key]
