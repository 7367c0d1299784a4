"""Wishes of a person or a program, in the imperative. Each is accepted or refused, with a reason,
as a fact.

They are obeyed at a safe point: between two steps, or after the layer in flight, whose step is
given up.
"""

from dataclasses import dataclass

from workbench.words import NodeId, PageId, PruneMode, RequestId, SeqId


@dataclass(frozen=True, slots=True)
class Command:
    pass


@dataclass(frozen=True, slots=True)
class Pause(Command):
    pass


@dataclass(frozen=True, slots=True)
class Resume(Command):
    pass


@dataclass(frozen=True, slots=True)
class StepTokens(Command):
    """Run until `n` more tokens are sampled, then pause."""

    n: int = 1


@dataclass(frozen=True, slots=True)
class StepNode(Command):
    """Run until the next node opens or closes, then pause."""


@dataclass(frozen=True, slots=True)
class StepOut(Command):
    """Run until `node` (the innermost open one when None) closes, then pause."""

    node: NodeId | None = None


@dataclass(frozen=True, slots=True)
class PruneNode(Command):
    """Remove the subtask list of `node` from the working memory of its branch."""

    node: NodeId
    mode: PruneMode = PruneMode.REENCODE


@dataclass(frozen=True, slots=True)
class ForkAt(Command):
    """A second branch that shares the stream of `seq` before token `index`.

    Its next token is `token` when given, else the `rank`-th most probable recorded there (0 is the
    best), else drawn anew; from there on with `temperature` and `seed` where given.
    """

    seq: SeqId
    index: int
    token: int | None = None
    rank: int | None = None
    temperature: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class ForkNode(Command):
    """`ForkAt` the first token of a node."""

    node: NodeId
    temperature: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class EditText(Command):
    """Replace stream tokens [start, stop) by `text`; what follows is dropped and generated anew."""

    seq: SeqId
    start: int
    stop: int
    text: str


@dataclass(frozen=True, slots=True)
class PinPage(Command):
    page: PageId
    pinned: bool = True


@dataclass(frozen=True, slots=True)
class PinNode(Command):
    """Keep the node's tokens from being pruned."""

    node: NodeId
    pinned: bool = True


@dataclass(frozen=True, slots=True)
class EvictPage(Command):
    """Throw an unreferenced page out of the prefix cache."""

    page: PageId


@dataclass(frozen=True, slots=True)
class AddNote(Command):
    text: str
    node: NodeId | None = None
    index: int = -1


@dataclass(frozen=True, slots=True)
class Cancel(Command):
    request: RequestId


COMMANDS: dict[str, type[Command]] = {
    cls.__name__: cls
    for cls in list(globals().values())
    if isinstance(cls, type) and issubclass(cls, Command) and cls is not Command
}
