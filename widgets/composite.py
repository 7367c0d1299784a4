"""All lanes over one axis: tree, memory, pool, experts, tokens, steps, with the inspector."""

from widgets.base import WorkbenchWidget


class Composite(WorkbenchWidget):
    """The picture of a run. In a live one its buttons and keys drive the engine.

    >>> Composite(trace, submit=session.submit)          # doctest: +SKIP
    >>> Composite(trace, lanes=["tree", "memory"])       # doctest: +SKIP
    """
