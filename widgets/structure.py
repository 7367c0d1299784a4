"""An editor of task structures: typed task classes, their tools and what their subtasks hold."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import anywidget
from traitlets import Dict, Enum, List, Unicode

from widgets.base import asset

Judge = Callable[[dict[str, Any]], dict[str, Any]]
"""Judges a structure's JSON: ``{"why": reason or "", "source": Python, "depth": levels}``."""


class StructureEditor(anywidget.AnyWidget):
    """`value` is the structure's JSON as it stands, wrong or not; `report` what `check` says of it.
    `tools` are the names offered. `theme` None follows the host."""

    value = Dict(help="the structure's JSON").tag(sync=True)
    report = Dict(help="why it is none, its Python, the levels it needs").tag(sync=True)
    tools = List(Unicode()).tag(sync=True)
    theme = Enum(["light", "dark"], None, allow_none=True, help="None follows the host").tag(
        sync=True
    )

    def __init__(
        self, value: dict[str, Any], *, check: Judge, tools: Sequence[str] = (), **options: Any
    ) -> None:
        for name in options.keys() - {"theme"}:
            near = get_close_matches(name, ("theme", "tools"), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"StructureEditor has no option {name!r}{hint}")
        self._check = check
        self.add_traits(
            _esm=Unicode(asset("structure.js")).tag(sync=True),
            _css=Unicode(asset("style.css")).tag(sync=True),
        )
        super().__init__(value=value, report=check(value), tools=list(tools), **options)
        self.observe(self._judge, "value")

    @property
    def structure(self) -> dict[str, Any]:
        """The structure's JSON: what `wb.run(…, structure=)` takes. Raises ValueError with the
        reason while it is none."""
        if why := self.report.get("why"):
            raise ValueError(f"the editor holds no structure yet: {why}")
        return dict(self.value)

    @property
    def source(self) -> str:
        """The Python that declares it."""
        return str(self.report.get("source", ""))

    def _judge(self, change: dict[str, Any]) -> None:
        self.report = {**self._check(change["new"])}

    def __repr__(self) -> str:
        why = self.report.get("why")
        return f"StructureEditor({why or ', '.join(t['name'] for t in self.value['types'])})"
