"""The recorder: takes every fact of a run on the engine's thread, quickly, and never fails the
step."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.events import (
    DetailDropped,
    Event,
    Noted,
    Routed,
    RunEnded,
    RunPaused,
    RunStarted,
    StepEnded,
    TokenKnown,
    TokenSampled,
    TokensFed,
    Waited,
)
from workbench.trace.store import Store
from workbench.trace.trace import LiveTrace
from workbench.words import Step

log = logging.getLogger("workbench.trace")

ALTERNATIVES = "TokenSampled.top"
ESSENTIAL = (RunStarted, RunEnded, DetailDropped)  # kept even when the store is quite full
PAUSES = frozenset((StepEnded, Waited, RunPaused))  # moments at which a chunk may be sealed by time
NUMBERS_AN_EVENT = 16  # numbers of a long tuple that weigh as much as one event in a chunk


class Recorder:
    """Keeps events in chunks, in `path` or in memory; `live` is what other threads read.

    `emit` belongs to one thread. A chunk is sealed after `chunk_events` events, or at the end of a
    step when `flush_s` seconds have passed. `limit_bytes` bounds what is held in memory (a file is
    not bounded): past a half of it the alternatives of tokens are dropped, past three quarters
    router choices too, at the whole of it all but the run's end; each loss is told as a
    `DetailDropped`.
    """

    def __init__(
        self,
        path: Path | None,
        detokenize: Callable[[int], bytes],
        *,
        chunk_events: int = 2048,
        flush_s: float = 1.0,
        limit_bytes: int = 256 << 20,
        resume: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._store = Store(path, resume=resume)
        self._detokenize = detokenize
        self._chunk_events = chunk_events
        self._flush_s = flush_s
        self._limit = limit_bytes
        self._clock = clock
        self._started = self._flushed = clock()
        self._known: set[int] = set()
        self._weight = 0
        self._level = 0
        self._lost: Counter[str] = Counter()
        self._step = Step(0)
        self._closed = self._told = False
        self.live = LiveTrace(self._store)
        self._prepare: dict[type[Event], Callable[[Any], bool]] = {
            TokenSampled: self._sampled, TokensFed: self._fed, Routed: self._routed,
            StepEnded: self._ended, RunStarted: self._begun, TokenKnown: self._named,
        }  # fmt: skip
        if resume:
            for known in self.live.events(TokenKnown):
                self._known.add(known.token)

    def emit(self, event: Event) -> None:
        """Keep one fact. After `close` facts are ignored."""
        if self._closed:
            return
        kind = type(event)
        if (prepare := self._prepare.get(kind)) is not None and not prepare(event):
            return
        if self._level:
            kept = self._thin(event)
            if kept is None:
                return
            event = kept
        self._store.pending.append(event)
        self._weight += 1
        if self._weight >= self._chunk_events or (kind in PAUSES and self._due()):
            self.flush()

    def _due(self) -> bool:
        return self._clock() - self._flushed >= self._flush_s

    # ---- what some kinds need before they are kept; False: they are not ----

    def _sampled(self, event: TokenSampled) -> bool:
        known = self._known
        if event.token not in known or not known.issuperset(event.top_ids):
            self._tell(event.step, (event.token, *event.top_ids))
        return True

    def _fed(self, event: TokensFed) -> bool:
        self._tell(event.step, event.tokens)
        self._weight += len(event.tokens) // NUMBERS_AN_EVENT
        return True

    def _routed(self, event: Routed) -> bool:
        self._weight += len(event.experts) // NUMBERS_AN_EVENT
        return True

    def _ended(self, event: StepEnded) -> bool:
        self._step = event.step
        return True

    def _begun(self, event: RunStarted) -> bool:
        self._started = self._clock()
        return True

    def _named(self, event: TokenKnown) -> bool:
        new = event.token not in self._known
        self._known.add(event.token)
        return new

    def _tell(self, step: Step, tokens: Iterable[int]) -> None:
        for token in tokens:
            if token not in self._known:
                self._known.add(token)
                try:
                    text = self._detokenize(token)
                except Exception as error:  # a recorder never fails the step
                    log.warning("token %d has no text: %s", token, error)
                    text = b""
                self._store.pending.append(TokenKnown(step, token, text))
                self._weight += 1

    def _thin(self, event: Event) -> Event | None:
        if self._level >= 3 and not isinstance(event, ESSENTIAL):
            self._lost[type(event).__name__] += 1
            return None
        if self._level >= 2 and isinstance(event, Routed):
            self._lost["Routed"] += 1
            return None
        if isinstance(event, TokenSampled) and event.top_ids:
            self._lost[ALTERNATIVES] += len(event.top_ids)
            return replace(event, top_ids=(), top_logprobs=())
        return event

    def flush(self) -> None:
        """Seal the events so far into a chunk."""
        store = self._store
        # one line a kind and chunk while detail is dropped; at the last level only at the end
        if self._lost and (self._level < 3 or self._closed):
            for kind, count in self._lost.items():
                store.pending.append(DetailDropped(self._step, kind, count))
            self._lost.clear()
        try:
            store.seal()
        except Exception as error:  # an event of wrong type: a recorder never fails the step
            log.warning("events were not recorded: %s", error)
            self._seal_sound()
        self._weight = 0
        self._flushed = self._clock()
        if store.trouble and not self._told:
            self._told = True
            store.pending.append(Noted(self._step, None, -1, store.trouble))
        full = store.memory_bytes / self._limit
        self._level = 3 if full >= 1 else 2 if full >= 0.75 else 1 if full >= 0.5 else 0

    def _seal_sound(self) -> None:
        sound: list[Event] = []
        lost: Counter[str] = Counter()
        for event in self._store.pending:
            try:
                self._store.codec.encode([event])
                sound.append(event)
            except Exception:
                lost[type(event).__name__] += 1
        sound += [DetailDropped(self._step, kind, count) for kind, count in lost.items()]
        self._store.pending[:] = sound
        self._store.seal()

    def close(self, complete: bool = True) -> None:
        """Tell the end of the run, seal and sync. `complete` False: it was interrupted."""
        if self._closed:
            return
        self.emit(RunEnded(self._step, self._clock() - self._started, complete))
        self._closed = True
        self.flush()
        self._store.close()
        self.live.close()
