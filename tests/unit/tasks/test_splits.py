"""What is evaluated was never trained on: levels do not overlap, contents do not either."""

import random

import pytest

from workbench.tasks import task
from workbench.tasks.catalogue import FAMILIES
from workbench.tasks.splits import SPLITS, drawn, fingerprint, kept_back


def test_every_family_has_its_row() -> None:
    assert set(SPLITS) == set(FAMILIES) - {"chain_sum"}


@pytest.mark.parametrize("name", sorted(SPLITS))
def test_levels_never_overlap(name: str) -> None:
    split = SPLITS[name]
    assert 1 <= split.train[0] <= split.train[1] < split.validation[0]
    assert split.validation[0] <= split.validation[1] < split.held_out


@pytest.mark.parametrize("name", sorted(SPLITS))
def test_what_is_drawn_keeps_to_its_split(name: str) -> None:
    split, rng = SPLITS[name], random.Random(name)
    trained = [drawn(name, rng) for _ in range(30)]
    validated = [drawn(name, rng, validation=True) for _ in range(10)]
    assert all(split.train[0] <= p.level <= split.train[1] for p in trained)
    assert all(split.validation[0] <= p.level <= split.validation[1] for p in validated)
    assert not any(kept_back(p) for p in trained)
    tested = [task(name, split.train[1], seed) for seed in range(5)]
    tested += [task(name, split.held_out, seed) for seed in range(2)]
    assert all(kept_back(p) for p in tested[:5])
    seen = {fingerprint(p) for p in trained}
    assert not seen & {fingerprint(p) for p in [*validated, *tested]}


def test_a_fingerprint_tells_prompts_and_tables_apart() -> None:
    one, two = task("maze", 9, 1), task("maze", 9, 2)
    assert fingerprint(one) == fingerprint(task("maze", 9, 1)) != fingerprint(two)
    kept = sum(kept_back(task("blocks", 40, seed)) for seed in range(400))
    assert 20 <= kept <= 64  # a tenth
