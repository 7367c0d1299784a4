"""The KV cache: pages over time where they lie, and what they hold in logical order."""

from widgets.base import WorkbenchWidget


class KVPages(WorkbenchWidget):
    """The pool lane in a frame of its own: a row is a page, colour is its owner."""

    only = ("pool",)


class MemoryOverTime(WorkbenchWidget):
    """The memory lane in a frame of its own: working memory token by token, and what left it."""

    only = ("memory",)
