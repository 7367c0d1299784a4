"""Expert load over time, for runs of nets that have experts."""

from widgets.base import WorkbenchWidget


class ExpertRouting(WorkbenchWidget):
    """The experts lane in a frame of its own: busiest over mean load, layer by layer."""

    only = ("experts",)
