"""score: judged once for each stream, counted, told."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.engine.checks import alive
from workbench.engine.protocols import Scorer
from workbench.engine.sequence import Branch
from workbench.events import Scored

if TYPE_CHECKING:
    from workbench.engine.engine import Engine


async def score(
    engine: "Engine", branches: Branch | Sequence[Branch], scorer: Scorer, prefix: bool
) -> list[float]:
    several = [branches] if isinstance(branches, Branch) else list(branches)
    values = []
    for branch in several:
        alive(engine, branch)
        key = (scorer.name, branch.net, tuple(branch.tokens)) if prefix else None
        value = engine.scores.get(key) if key is not None else None
        if value is None:
            result = await scorer(engine, branch)
            value = result.value
            record = engine.requests[branch.request]
            record.scorer_calls += 1
            record.scorer += result.tokens
            if key is not None:
                engine.scores[key] = value
            engine.tell(Scored(engine.now, branch.seq, None, scorer.name, value, result.tokens))
        values.append(value)
    return values
