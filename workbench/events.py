"""Facts of a run, in the past tense. Frozen, flat, numbers and short texts only: a row of a column
store.

Every fact bears the engine step it belongs to. `t` is seconds since `RunStarted`. Token *indexes*
count the branch's whole emitted stream (prompt included), not its resident memory: they never shift
when something is pruned. Optional whole numbers use -1 in the store; in code they are None.
"""

from dataclasses import dataclass

from workbench.words import (
    Field,
    Finish,
    FreeReason,
    NodeId,
    NodeKind,
    Origin,
    PageId,
    Phase,
    PruneMode,
    RequestId,
    SeqId,
    Step,
)


@dataclass(frozen=True, slots=True)
class Event:
    step: Step


# ---- the run ----


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """First fact of a trace."""

    started_at: str  # ISO 8601, UTC
    model: str
    backend: str
    page_size: int
    pages: int
    window: int  # native window of the model
    limit: int  # window set for this run (`--window`), or `window`
    layers: int
    experts: int
    eos: tuple[int, ...]
    versions: str  # JSON: workbench, python, torch, numpy …
    reasons: str  # JSON: how each "auto" of the settings was answered


@dataclass(frozen=True, slots=True)
class RunEnded(Event):
    t: float
    complete: bool  # False: interrupted


# ---- requests and branches ----


@dataclass(frozen=True, slots=True)
class RequestOpened(Event):
    t: float
    request: RequestId
    title: str
    strategy: str
    params: str  # JSON of the strategy's dataclass
    seed: int


@dataclass(frozen=True, slots=True)
class RequestEnded(Event):
    t: float
    request: RequestId
    finish: Finish
    answer: str
    error: str


@dataclass(frozen=True, slots=True)
class BranchOpened(Event):
    """A branch was opened (parent None) or forked from `parent`, sharing its first `at` stream
    tokens."""

    t: float
    seq: SeqId
    request: RequestId
    parent: SeqId | None
    at: int
    reused: int  # prompt tokens whose pages came from the prefix cache or the parent


@dataclass(frozen=True, slots=True)
class BranchDropped(Event):
    seq: SeqId
    reason: str


# ---- tokens ----


@dataclass(frozen=True, slots=True)
class TokenKnown(Event):
    """The bytes of a token id, told once, the first time that the trace mentions it."""

    token: int
    text: bytes


@dataclass(frozen=True, slots=True)
class TokensFed(Event):
    """Tokens put into a branch from outside: prompt, tool result, hint, edit."""

    seq: SeqId
    index: int  # stream index of the first
    origin: Origin
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenSampled(Event):
    seq: SeqId
    index: int
    token: int
    logprob: float  # nats, under the masked distribution before temperature
    entropy: float  # nats
    top_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]


# ---- the tree ----


@dataclass(frozen=True, slots=True)
class NodeOpened(Event):
    node: NodeId
    parent: NodeId | None
    seq: SeqId
    request: RequestId
    kind: NodeKind
    path: str  # "4.2"; "" for a root
    index: int  # stream index of its first token
    owner: int  # colour 1..12 of its top-level subtree; 0: neutral
    lap: int  # how often the owner colours had been used up


@dataclass(frozen=True, slots=True)
class NodeTitled(Event):
    node: NodeId
    title: str


@dataclass(frozen=True, slots=True)
class FieldSpanned(Event):
    """Stream tokens [start, stop) of `seq` are `field` of `node`. Told when the field closes."""

    node: NodeId
    seq: SeqId
    field: Field
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class ListSpanned(Event):
    """The contents of a node's subtask list are stream tokens [start, stop): what a prune would
    remove."""

    node: NodeId
    seq: SeqId
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class NodeClosed(Event):
    node: NodeId
    index: int  # stream index just past its last token
    conclusion: str


@dataclass(frozen=True, slots=True)
class ToolCalled(Event):
    t: float
    node: NodeId
    seq: SeqId
    call: int
    tool: str
    parameters: str  # JSON as generated


@dataclass(frozen=True, slots=True)
class ToolReturned(Event):
    t: float
    node: NodeId
    seq: SeqId
    call: int
    ok: bool
    result: str  # JSON as fed
    seconds: float  # wait for the tool alone


@dataclass(frozen=True, slots=True)
class Scored(Event):
    seq: SeqId
    node: NodeId | None
    scorer: str
    value: float
    tokens: int  # that the scorer read; 0 for a program


@dataclass(frozen=True, slots=True)
class Noted(Event):
    node: NodeId | None
    index: int
    text: str


# ---- memory ----


@dataclass(frozen=True, slots=True)
class Pruned(Event):
    """Stream tokens [start, stop) left the working memory of `seq`; survivors behind them moved
    up."""

    t: float
    seq: SeqId
    node: NodeId | None
    start: int
    stop: int
    removed: int  # resident tokens that left
    reencoded: int  # survivors run through the net again
    rotated: int  # survivors turned and moved
    pages_freed: int  # net: held before minus held after
    mode: PruneMode
    length_before: int  # resident tokens of the branch
    length_after: int
    # "threshold", "command", "strategy"; "edit": the stream ends at `start` now, what follows is
    # told again as fed tokens, and "earlier" (nothing removed) names those of them that had left
    # before
    cause: str


@dataclass(frozen=True, slots=True)
class PageAllocated(Event):
    page: PageId
    seq: SeqId
    place: int  # index in the branch's block table


@dataclass(frozen=True, slots=True)
class PageFilled(Event):
    """`used` slots of a page are taken now. Told when a page fills up, and at the end of a prune or
    fork."""

    page: PageId
    seq: SeqId
    used: int


@dataclass(frozen=True, slots=True)
class PageShared(Event):
    """A branch took a reference to a page that somebody else made (fork or prefix cache)."""

    page: PageId
    seq: SeqId
    place: int
    refcount: int


@dataclass(frozen=True, slots=True)
class PageCopied(Event):
    """Copy on write: `seq` got its own `page` instead of `source`."""

    source: PageId
    page: PageId
    seq: SeqId
    place: int


@dataclass(frozen=True, slots=True)
class PageReleased(Event):
    """A branch gave its reference back; `refcount` are left. The page is free only after
    `PageFreed`."""

    page: PageId
    seq: SeqId
    refcount: int
    reason: FreeReason


@dataclass(frozen=True, slots=True)
class PageCached(Event):
    """No branch holds the page, but the prefix cache keeps it."""

    page: PageId


@dataclass(frozen=True, slots=True)
class PageFreed(Event):
    page: PageId
    reason: FreeReason


@dataclass(frozen=True, slots=True)
class PagePinned(Event):
    page: PageId
    pinned: bool


@dataclass(frozen=True, slots=True)
class BranchPreempted(Event):
    """The pool was short: the branch gave up its pages until it runs again."""

    seq: SeqId
    by: str  # "recompute" or "swap"
    pages: int


@dataclass(frozen=True, slots=True)
class BranchRestored(Event):
    seq: SeqId
    by: str
    pages: int


# ---- experts ----


@dataclass(frozen=True, slots=True)
class Routed(Event):
    """Router choices of one layer in one step: tokens × k expert ids, flat, in the order of the
    batch."""

    layer: int
    k: int
    experts: tuple[int, ...]
    weights: tuple[float, ...]


# ---- commands ----


@dataclass(frozen=True, slots=True)
class CommandAccepted(Event):
    t: float
    command: str  # type name
    arguments: str  # JSON
    outcome: str  # JSON: what it made, e.g. {"seq": 3}


@dataclass(frozen=True, slots=True)
class CommandRefused(Event):
    t: float
    command: str
    arguments: str
    why: str


@dataclass(frozen=True, slots=True)
class RunPaused(Event):
    t: float
    abandoned: bool  # a forward pass was given up for it


@dataclass(frozen=True, slots=True)
class RunResumed(Event):
    t: float


# ---- steps ----


@dataclass(frozen=True, slots=True)
class StepEnded(Event):
    """Timings of one forward pass and where memory stood after it. Seconds are wall time of the
    host: where a device computes meanwhile, `forward_s` is the launch (next to nothing where the
    pass was begun ahead) and `sample_s` holds the wait."""

    t: float  # at its start
    seconds: float
    phase: Phase
    rows: int
    prefill: int  # tokens computed, by phase
    decode: int
    extend: int
    reencode: int
    sampled: int
    resident: int  # tokens over all live branches, shared ones once
    pages_held: int
    waiting: int  # branches that wanted to run and could not
    plan_s: float
    forward_s: float
    sample_s: float
    grammar_s: float


@dataclass(frozen=True, slots=True)
class Waited(Event):
    """Nothing ran for a while: a tool, a person or an empty queue."""

    t: float
    seconds: float
    on: str  # "tool", "paused", "idle"


@dataclass(frozen=True, slots=True)
class DetailDropped(Event):
    """The recorder was full: `count` facts of `kind` were not kept."""

    kind: str
    count: int


EVENTS: dict[str, type[Event]] = {
    cls.__name__: cls
    for cls in list(globals().values())
    if isinstance(cls, type) and issubclass(cls, Event) and cls is not Event
}
