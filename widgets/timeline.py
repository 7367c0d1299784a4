"""What the engine did when: entropy of its tokens, phases of its steps."""

from widgets.base import WorkbenchWidget


class Tokens(WorkbenchWidget):
    """The tokens lane in a frame of its own: entropy, and words where there is room."""

    only = ("tokens",)


class Steps(WorkbenchWidget):
    """The steps lane in a frame of its own: prefill, decode, extend, re-encode, waits."""

    only = ("steps",)
