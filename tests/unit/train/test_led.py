"""Led along right texts, ours errs where transformers does, token by token."""

from collections import Counter

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.unit.train.test_loop import ascii_encoder, llama, tiny_net
from workbench.tasks.splits import SPLITS
from workbench.train import led
from workbench.train.step import Step
from workbench.train.views import NO_TARGET, View

__all__ = ["llama"]


@pytest.fixture(autouse=True)
def short_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(led, "ROW", 1536)


def step_of(net: LlamaForCausalLM) -> Step:
    return Step(tiny_net(net), torch.optim.SGD([torch.zeros(1)]), 1.0)


def confused(net: LlamaForCausalLM, view: View) -> Counter[tuple[int, int]]:
    """(wanted, came) at each target, from a fresh pass over what is visible there."""
    found: Counter[tuple[int, int]] = Counter()
    for query in (view.targets != NO_TARGET).nonzero()[0]:
        left = [k for k in range(query + 1) if query < view.dead[k]]
        with torch.no_grad():
            logits = net(torch.from_numpy(view.ids[left]).long()[None]).logits[0, -1]
        if (came := int(logits.argmax())) != view.targets[query]:
            found[int(view.targets[query]), came] += 1
    return found


@pytest.mark.parametrize("style", ["tree", "flat"])
def test_wrong_tokens_are_those_of_transformers(llama: LlamaForCausalLM, style: str) -> None:
    views = led.views_of(ascii_encoder(), style, "tally", 2, 2)
    wanted = sum((confused(llama, view) for view in views), Counter())
    found = led.judge(step_of(llama), "tally", 2, views)
    assert (found.n, found.exact, found.errors) == (2, 0, wanted.total())
    assert found.sampled == sum(int((view.targets != NO_TARGET).sum()) for view in views)
    assert all(wanted[w, c] == n for w, c, n in found.commonest)
    assert [n for *_, n in found.commonest] == [n for _, n in wanted.most_common(4)]


def test_a_problem_is_exact_when_nothing_is_wrong(
    llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scripted predictions: all right, then one token of one problem wrong."""
    views = led.views_of(ascii_encoder(), "tree", "tally", 2, 3)
    step = step_of(llama)
    monkeypatch.setattr(step, "predictions", lambda batch: batch.targets.copy())
    found = led.judge(step, "tally", 2, views)
    assert (found.n, found.exact, found.errors, found.commonest) == (3, 3, 0, ())
    spoiled = []

    def spoil(batch):  # type: ignore[no-untyped-def]
        came = batch.targets.copy()
        if not spoiled:
            row, place = next(zip(*(came != NO_TARGET).nonzero(), strict=True))
            spoiled.append(int(came[row, place]))
            came[row, place] = 1
        return came

    monkeypatch.setattr(step, "predictions", spoil)
    found = led.judge(step, "tally", 2, views)
    assert (found.exact, found.errors, found.commonest) == (2, 1, ((spoiled[0], 1, 1),))


def test_levels_lie_in_training_and_far_beyond() -> None:
    for name, split in SPLITS.items():
        near, far = led.levels(split)
        assert split.train[0] <= near <= split.train[1] and far >= split.held_out, name
        assert not split.odd or near % 2 == far % 2 == 1
