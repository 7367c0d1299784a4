"""What can be asked and checked: problem families, each with the work that a right run would
show."""

from workbench.tasks.catalogue import demo_chain, right, task
from workbench.tasks.gold import Problem

__all__ = ["Problem", "demo_chain", "right", "task"]
