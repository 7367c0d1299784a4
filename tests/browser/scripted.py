"""A session for a notebook under test: a net that writes a known tree, slowly enough to be met."""

import json
import time
from collections.abc import Callable

import torch

from tests.fakes import FakePool
from tests.unit.session.fake_model import FakeModel
from workbench.forward import ForwardBatch, ForwardOutput
from workbench.session import Run, Session
from workbench.settings import Settings, resolve

PROMPT = b"List what there is to see.\n"
SUBTASKS = 60
STEP_S = 0.004


def tree() -> bytes:
    """One task with a long list of short subtasks."""
    subtasks = [
        {"thought": f"look at room {i}", "conclusion": f"room {i} is seen"}
        for i in range(1, SUBTASKS + 1)
    ]
    task = {"thought": "the museum", "subtasks": subtasks, "conclusion": "all seen"}
    whole = {"reasoning": [task], "answer": "done"}
    return json.dumps(whole, separators=(",", ":")).encode()


class Scripted(FakeModel):
    """Likes best what stands in the script behind the token's position; free where that is no
    longer allowed, as after a prune."""

    script = PROMPT + tree()

    def __call__(
        self, batch: ForwardBatch, pool: FakePool, pulse: Callable[[], None] = lambda: None
    ) -> ForwardOutput:
        time.sleep(STEP_S)
        out = super().__call__(batch, pool, pulse)
        for row, place in enumerate(batch.positions[batch.logit_rows].tolist()):
            if place + 1 < len(self.script):
                out.logits[row, self.script[place + 1]] += 40
        return out


def session() -> Session:
    settings = Settings(pages=1024, page_size=4, backend="cpu")
    torch.set_num_threads(1)
    return Session(Scripted(window=8192), resolve(settings))


def start(opened: Session) -> Run:
    return opened.run("List what there is to see.", "tim", ids=list(PROMPT))
