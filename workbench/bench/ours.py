"""Our engine for a bench: on this thread, in steps, so that turns can be interleaved."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from typing import Any, Self, TypeVar

from workbench.engine.engine import Engine
from workbench.engine.protocols import Until
from workbench.engine.sampler import Sample
from workbench.engine.sequence import Branch
from workbench.events import Event
from workbench.model import Model, load_model
from workbench.ops.sampling import sample
from workbench.words import Finish, RequestId

T = TypeVar("T")


class Ours:
    """An engine with its own event loop; each call runs the loop until its work is done."""

    def __init__(
        self,
        model: Model,
        pages: int,
        *,
        emit: Callable[[Event], None] = lambda event: None,
        max_rows: int = 16,
        chunk: int = 512,
        record_top: int = 0,
        device_sample: bool = False,
    ) -> None:
        """`device_sample`: the backend draws the tokens, where the logits lie."""
        tokenizer = model.tokenizer
        self.model, self.name = model, f"workbench {model.name}"
        self.engine = Engine(
            model,
            pages=pages,
            emit=emit,
            max_rows=max_rows,
            chunk=chunk,
            record_top=record_top,
            detokenize=tokenizer.token_bytes,
            tokenize=tokenizer.encode,
            eos=tokenizer.eos,
            ops_sample=device_sampler(model) if device_sample else sample,
        )
        self.loop = asyncio.new_event_loop()
        self.task = self.loop.create_task(self.engine.run())
        self.request: RequestId | None = None
        self.branch: Branch | None = None

    @classmethod
    def load(cls, name: str, weights: str, dtype: str, pages: int, **options: Any) -> Self:
        backend = options.pop("backend", "auto")
        model = load_model(name, weights=weights, dtype=dtype, backend=backend)
        return cls(model, pages, **options)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def new_request(self) -> RequestId:
        return self.engine.new_request(title="bench", strategy="bench", params="{}", seed=0)

    def open(self, prompt: Sequence[int]) -> None:
        """A fresh branch with nothing shared, prefilled to its first logits."""
        self.end()
        self.request = self.new_request()
        self.branch = self.wait(self.engine.open(list(prompt), request=self.request, share=False))

    def decode(self, tokens: int) -> None:
        assert self.branch is not None
        until = Until(max_tokens=tokens, eos=False)
        self.wait(self.engine.decode([self.branch], until=until))

    def end(self) -> None:
        if self.request is not None:
            self.engine.end_request(self.request, Finish.STOP)
            self.request = self.branch = None

    def serve(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> None:
        """All requests at once; the engine lets them come and go through its slots."""

        async def one(prompt: Sequence[int], length: int) -> None:
            request = self.new_request()
            branch = await self.engine.open(list(prompt), request=request, share=False)
            await self.engine.decode([branch], until=Until(max_tokens=length, eos=False))
            self.engine.end_request(request, Finish.STOP)

        async def all_of_them() -> None:
            await asyncio.gather(*(one(p, n) for p, n in zip(prompts, lengths, strict=True)))

        self.wait(all_of_them())

    def close(self) -> None:
        self.end()
        self.task.cancel()
        self.loop.run_until_complete(asyncio.gather(self.task, return_exceptions=True))
        self.loop.close()


def replays(engine: Engine) -> dict[str, Any]:
    """What became of decode steps so far: captured, replayed, eager, and why; of guesses of the
    next one, how many were right. Empty where nothing captures."""
    graphs = getattr(engine.memory.pool, "graphs", None)
    if graphs is None:
        return {}
    ahead = engine.ahead
    return {**asdict(graphs.counts), "ahead": ahead.hits, "ahead_missed": ahead.misses}


def device_sampler(model: Model) -> Sample:
    """The draw of the model's own backend, where its logits lie."""
    own: Sample = getattr(model, "sample", sample)
    return own
