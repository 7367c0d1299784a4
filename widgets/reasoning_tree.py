"""The reasoning tree alone: width is tokens, row is depth, a fork is a second track."""

from widgets.base import WorkbenchWidget


class ReasoningTree(WorkbenchWidget):
    """The tree lane in a frame of its own."""

    only = ("tree",)
