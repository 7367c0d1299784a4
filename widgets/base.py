"""What every widget of ours is: small synced traits, data as messages, errors in sight."""

from collections import deque
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, ClassVar

import anywidget
import traitlets
from traitlets import Dict, Enum, Int, List, Unicode

from widgets.build import STATIC, build
from widgets.gestures import Submit, obey
from widgets.pump import Pump
from widgets.wire import Message, Source
from workbench.trace.columns import Tables
from workbench.trace.trace import Trace

ENDED = "the run is over and its session closed"
ABSENT = "no engine behind this view"
REMEMBERED = 20  # errors kept on the Python side


def asset(name: str) -> str:
    """Text of a bundle; built first where a checkout never was."""
    path = STATIC / name
    build()
    if not path.exists():
        raise RuntimeError(
            f"the bundle {name} was wanted, {STATIC} does not hold it;"
            " install the package anew, or run `python -m widgets.build` in a checkout"
        )
    return path.read_text()


class WorkbenchWidget(anywidget.AnyWidget):
    """A view of a trace. `submit` takes commands and gives futures; without it the view only looks.

    The traits are what a reader may set and what a notebook may keep: `at` (engine step, None
    follows the run), `picks` (``{"node": row, "span": [a, b]}``), `axis`, `theme` (None follows
    the host). A keyword that is none of them is refused.
    """

    module: ClassVar[str] = "composite"
    only: ClassVar[tuple[str, ...]] = ()  # lanes; empty: all that the run has something for
    _pump: Pump | None = None

    at = Int(None, allow_none=True, help="engine step shown; None follows the run").tag(sync=True)
    picks = Dict(help="what is selected: node (row of `nodes`) and span (steps)").tag(sync=True)
    axis = Enum(["tokens", "steps", "wall"], "tokens", help="unit of the axis").tag(sync=True)
    theme = Enum(["light", "dark"], None, allow_none=True, help="None follows the host").tag(
        sync=True
    )
    density = Enum(["compact", "normal", "roomy"], None, allow_none=True).tag(sync=True)
    title = Unicode("", help="shown instead of the request's title").tag(sync=True)
    lanes = List(Unicode()).tag(sync=True)
    engine = Dict().tag(sync=True)

    def __init__(
        self, source: Source | Tables, *, submit: Submit | None = None, **options: Any
    ) -> None:
        settable = set(self.trait_names()) - {"engine"}
        for name in options.keys() - settable:
            near = get_close_matches(name, settable, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{type(self).__name__} has no option {name!r}{hint}")
        self.source = source
        self.errors: deque[str] = deque(maxlen=REMEMBERED)
        self._submit = submit
        self.add_traits(
            _esm=Unicode(asset(f"{self.module}.js")).tag(sync=True),
            _css=Unicode(asset("style.css")).tag(sync=True),
        )
        options.setdefault("lanes", list(self.only))
        super().__init__(engine=self._engine_state(), **options)
        self._pump = Pump(source, self._post, self._failed)
        self.on_msg(self._heard)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source!r})"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        from widgets.formatters import card

        found = super()._repr_mimebundle_(**kwargs)
        if found and isinstance(self.source, Trace):  # what a host without widgets can show
            found[0]["text/html"] = card(self.source)
        return found

    def close(self) -> None:
        if self._pump is not None:  # None: refused while it was made
            self._pump.close()
        super().close()

    def tables(self) -> Tables:
        return self.source if isinstance(self.source, Tables) else self.source.tables()  # type: ignore[attr-defined]

    def _engine_state(self) -> dict[str, Any]:
        if self._submit is None:
            return {"here": False, "why": ABSENT}
        live = bool(getattr(self.source, "live", True))
        return {"here": live, "why": "" if live else ENDED}

    def _post(self, message: Message) -> None:
        self.send(message.header, [message.payload])
        if not message.header["meta"].get("live") and self._submit is not None:
            self.send({"kind": "engine", **self._engine_state()})

    def _failed(self, error: Exception) -> None:
        words = f"{type(error).__name__}: {error}"
        self.errors.append(words)
        self.send({"kind": "error", "text": words})

    def _heard(self, _: object, content: Any, buffers: Sequence[Any]) -> None:
        """A message of a view. May run on any thread of the kernel."""
        try:
            if self._pump is not None and self._pump.answer(content):
                return
            match content.get("kind"):
                case "gesture":
                    obey(self._submit, content, self.tables, self.send)
                case "error":
                    self.errors.append(str(content.get("text")))
                case other:
                    raise ValueError(f"ack, resync, gesture or error was wanted, {other!r} came")
        except Exception as error:  # an error in a handler would vanish in a log that nobody reads
            self._failed(error)


def link(*views: WorkbenchWidget) -> list[traitlets.link]:
    """Cursor, selection and axis of one view are those of all. `unlink()` of a link parts them."""
    return [
        traitlets.link((views[0], name), (other, name))
        for other in views[1:]
        for name in ("at", "picks", "axis")
    ]
