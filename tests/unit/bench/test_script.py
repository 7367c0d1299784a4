"""Scripts say what a run says, and the naive way holds what the engine holds."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from workbench.bench.script import Forced, Forget, Put, Say, rounds, sampled, script, uncalled
from workbench.tasks.catalogue import task
from workbench.tasks.gold import flat_pieces, tree_pieces
from workbench.train.views import encode_gold, pruned_view


def bytes_of(text: str) -> list[int]:
    return list(text.encode())


def residents(acts: Sequence[object], base: int) -> tuple[list[int], int]:
    """What is in memory at the end, and the most that ever was, kept in the plainest way."""
    held: list[tuple[int, int]] = []
    at, peak = 0, base
    for act in acts:
        if isinstance(act, Forget):
            held = [(i, t) for i, t in held if not act.start <= i < act.stop]
        elif isinstance(act, Say | Put):
            held += enumerate(act.ids, at)
            at += len(act.ids)
            peak = max(peak, base + len(held))
    return [token for _, token in held], peak


@pytest.mark.parametrize("family", ["chain", "expression", "blocks", "loops"])
def test_a_script_prunes_as_training_views_do(family: str) -> None:
    problem, prompt = task(family, 14, 5), bytes_of("what?")
    acts = script(tree_pieces(problem), bytes_of)
    gold = encode_gold(tree_pieces(problem), bytes_of, 0)
    view = pruned_view(prompt, gold, 0)
    held, peak = residents(acts, len(prompt))
    assert peak in (view.positions.max(), view.positions.max() + 1)  # the view has an end token
    alive = view.ids[view.dead > len(view)]
    assert [*prompt, *held, 0] == alive.tolist()
    assert sampled(acts) == sum(not fed for fed in gold.fed) - 1


def test_a_text_without_calls_is_the_same_text() -> None:
    acts = script(tree_pieces(task("chain", 5, 1)), bytes_of)
    plain = uncalled(acts)
    assert not any(isinstance(act, Put) for act in plain)
    assert residents(acts, 0) == residents(plain, 0)


def test_a_client_asks_once_a_call_and_once_for_the_answer() -> None:
    problem = task("chain", 5, 1)
    asked = list(rounds(flat_pieces(problem), bytes_of))
    assert len(asked) == problem.steps + 1
    for (history, said), (longer, _) in pairwise(asked):
        assert longer[: len(history) + len(said)] == history + said
    end, said = asked[-1]
    text = bytes(end + said).decode()
    assert text == "".join(piece.text for piece in flat_pieces(problem))


def test_a_forced_matcher_allows_one_text() -> None:
    matcher, row = Forced([3, 40, 3]), np.zeros(2, np.int32)
    matcher.fill(row)
    assert row.tolist() == [8, 0]
    matcher.consume(3)
    matcher.fill(row)
    assert row.tolist() == [0, 256]
    with pytest.raises(ValueError, match="token 40 is forced"):
        matcher.consume(41)
    twin = matcher.copy()
    twin.consume(40)
    twin.consume(3)
    assert (twin.finished, matcher.finished) == (True, False)
    twin.rollback(3)
    twin.fill(row)
    assert row.tolist() == [8, 0]
