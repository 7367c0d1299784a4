"""The KV cache: pages over time where they lie, and what they hold in logical order."""

from widgets.base import WorkbenchWidget


class KVPages(WorkbenchWidget):
    """The pool lane in a frame of its own, under it the pages as they lie at the cursor's step."""

    only = ("pool", "pages")


class MemoryOverTime(WorkbenchWidget):
    """The memory lane in a frame of its own: working memory token by token, and what left it."""

    only = ("memory",)
