"""The tree as rows for reading, with search; the text alternative of the pictures."""

from widgets.base import WorkbenchWidget


class Outline(WorkbenchWidget):
    """Path, title, conclusion, span, tokens, memory and state of every node."""

    module = "outline"
