"""How far a text follows its problem's right steps: ProcBench's measures (2410.03117).

A step is the conclusion of a task that has no subtasks, in a Thread-2 tree, or a line that is no
call, in flat text; the last is the answer. Broken output is read as far as it goes.
"""

import re
from dataclasses import dataclass

from workbench.tasks.gold import Problem, flat_pieces, tree_pieces

# behind a list stands an inner task's conclusion, which says again what its last step said
STEP = re.compile(r'(?:(?<!\]),"conclusion"|(?<=\]),"answer"):"([^"]*)"')
ANSWER = "answer: "


@dataclass(frozen=True, slots=True)
class Followed:
    """`matched` steps are right before the first that is not, of `steps` that were to be said and
    `said` that were; `final`: the answer is right."""

    matched: int
    steps: int
    said: int
    final: bool

    @property
    def prefix_accuracy(self) -> float:
        """Matched steps over the longer of the two sequences; 1 for one that is right in whole."""
        return self.matched / max(self.steps, self.said)

    @property
    def whole(self) -> bool:
        return self.matched == self.steps == self.said


def followed(problem: Problem, text: str) -> Followed:
    """Compare what a tree or flat text says, step by step, with the problem's gold."""
    is_tree = text.startswith("{")
    pieces = tree_pieces(problem) if is_tree else flat_pieces(problem)
    gold = _steps("".join(piece.text for piece in pieces), is_tree, bool(problem.tool))
    said = _steps(text, is_tree, bool(problem.tool))
    both = zip(gold, said, strict=False)
    matched = next((i for i, (a, b) in enumerate(both) if a != b), min(len(gold), len(said)))
    return Followed(matched, len(gold), len(said), said[-1:] == gold[-1:])


def _steps(text: str, is_tree: bool, has_calls: bool) -> list[str]:
    if is_tree:
        return STEP.findall(text)
    lines = [line for line in text.split("\n") if "=>" not in line]
    answer = [line for line in lines if line.startswith(ANSWER)]
    lines = [line for line in lines if line and not line.startswith(ANSWER)]
    # without calls a thought stands before each conclusion
    return [*(lines if has_calls else lines[1::2]), *answer]
