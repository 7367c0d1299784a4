"""Forms out of dataclasses: a field is a control, its bounds and choices come from its type."""

import dataclasses
import enum
import types
import typing
from collections.abc import Callable
from html import escape
from typing import Any, Literal, Union

import ipywidgets as w

LABEL = {"description_width": "initial"}


class Form(w.VBox):
    """`value` is an instance of the dataclass; a bad entry is said in the help's place, in words.

    Field metadata may hold `help`, `min`, `max`. Fields that are no plain value (or start with an
    underscore) keep their default.
    """

    def __init__(
        self, kind: type, start: Any = None, submit: Callable[[Any], object] | None = None
    ) -> None:
        if not dataclasses.is_dataclass(kind):
            raise TypeError(f"a dataclass was wanted, {kind!r} came")
        self.kind = kind
        self.controls: dict[str, Control] = {}
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if not field.init or field.name.startswith("_"):
                continue
            first = getattr(start, field.name) if start is not None else _default(field)
            control = control_of(field, hints[field.name], first)
            if control is not None:
                self.controls[field.name] = control
        self.error = w.HTML()
        children: list[w.Widget] = [c.box for c in self.controls.values()]
        if submit is not None:
            button = w.Button(description="Run", button_style="primary", tooltip=kind.__name__)
            button.on_click(lambda _: self._submit(submit))
            children.append(button)
        super().__init__([*children, self.error])

    @property
    def value(self) -> Any:
        """The dataclass as filled in. ValueError names the field that does not fit."""
        return self.kind(**{name: control.read() for name, control in self.controls.items()})

    def _submit(self, submit: Callable[[Any], object]) -> None:
        self.error.value = ""
        try:
            submit(self.value)
        except (TypeError, ValueError) as error:
            red = "color:var(--jp-error-color1,#b3261e)"
            self.error.value = f'<span style="{red}">&#9670; {escape(str(error))}</span>'


@dataclasses.dataclass
class Control:
    name: str
    box: w.Widget
    read: Callable[[], Any]


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None


def control_of(field: "dataclasses.Field[Any]", hint: Any, first: Any) -> Control | None:
    """The control for a field; None where its type is no plain value."""
    name = field.name
    label = name.replace("_", " ")
    options = typing.get_args(hint)
    optional = typing.get_origin(hint) in (Union, types.UnionType) and type(None) in options
    if optional:
        inner = [o for o in options if o is not type(None)]
        if len(inner) != 1:
            return None
        return _optional(field, inner[0], first, label)
    if hint is bool:
        box = w.Checkbox(value=bool(first), description=label, indent=False)
        return Control(name, _explained(field, box), lambda: box.value)
    if typing.get_origin(hint) is Literal:
        return _choice(field, [(str(o), o) for o in options], first, label)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _choice(field, [(str(o.value), o) for o in hint], first, label)
    if hint in (int, float):
        return _number(field, hint, first, label)
    if hint is str:
        entry = w.Text(
            value=first or "", description=label, style=LABEL, layout=w.Layout(width="100%")
        )
        return Control(name, _explained(field, entry), lambda: entry.value)
    return None


def _number(field: "dataclasses.Field[Any]", kind: type, first: Any, label: str) -> Control:
    low, high = field.metadata.get("min"), field.metadata.get("max")
    entry = (w.IntText if kind is int else w.FloatText)(
        value=first if first is not None else low or 0,
        description=label,
        style=LABEL,
        layout=w.Layout(width="50%"),
    )

    def read() -> Any:
        value = entry.value
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = " and ".join(
                f"{w} {v}" for w, v in (("at least", low), ("at most", high)) if v is not None
            )
            raise ValueError(f"{label}: {bounds} is wanted, {value} came")
        return value

    return Control(field.name, _explained(field, entry), read)


def _choice(
    field: "dataclasses.Field[Any]", options: list[tuple[str, Any]], first: Any, label: str
) -> Control:
    value = first if any(o[1] == first for o in options) else options[0][1]
    box = w.Dropdown(
        options=options, value=value, description=label, style=LABEL, layout=w.Layout(width="50%")
    )
    return Control(field.name, _explained(field, box), lambda: box.value)


def _optional(field: "dataclasses.Field[Any]", kind: Any, first: Any, label: str) -> Control | None:
    """A value that may be None: a tick stands before it."""
    inner = control_of(field, kind, first)
    if inner is None:
        return None
    given = w.Checkbox(value=first is not None, indent=False, layout=w.Layout(width="auto"))
    inner.box.layout.visibility = "visible" if given.value else "hidden"

    def toggle(change: Any) -> None:
        inner.box.layout.visibility = "visible" if change["new"] else "hidden"

    given.observe(toggle, "value")
    row = w.HBox([given, w.Label(label), inner.box])
    return Control(field.name, row, lambda: inner.read() if given.value else None)


def _explained(field: "dataclasses.Field[Any]", control: w.Widget) -> w.Widget:
    help_text = field.metadata.get("help")
    if not help_text:
        return control
    return w.VBox([control, w.HTML(f'<small style="opacity:.7">{help_text}</small>')])


def form(kind: type, start: Any = None, submit: Callable[[Any], object] | None = None) -> Form:
    """A form for a dataclass: `form(Tim, submit=lambda s: wb.run(prompt, strategy=s))`."""
    return Form(kind, start, submit)
