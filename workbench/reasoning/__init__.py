"""What to ask next: strategies, and the trees that they grow."""

from workbench.reasoning.chain import Chain
from workbench.reasoning.lines import Lines
from workbench.reasoning.strategy import (
    Answer,
    Budget,
    BudgetSpent,
    Context,
    Strategy,
    Task,
    UnknownStrategy,
    make_strategy,
    register,
    strategies,
)
from workbench.reasoning.tim import Tim
from workbench.reasoning.vote import Vote

__all__ = [
    "Answer",
    "Budget",
    "BudgetSpent",
    "Chain",
    "Context",
    "Lines",
    "Strategy",
    "Task",
    "Tim",
    "UnknownStrategy",
    "Vote",
    "make_strategy",
    "register",
    "strategies",
]
