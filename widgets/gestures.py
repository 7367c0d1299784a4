"""A finished gesture of a view becomes a command; the answer goes back to the view.

A view names rows of its tables; commands name nodes and branches by their ids.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from workbench.commands import (
    AddNote,
    Command,
    ForkAt,
    Pause,
    PinNode,
    PruneNode,
    Resume,
    StepOut,
    StepTokens,
)
from workbench.trace.columns import Tables
from workbench.words import NodeId, SeqId

Submit = Callable[[Command], "Future[Any]"]
Arguments = Mapping[str, Any]


class GestureError(Exception):
    """A message of a view that cannot be a command."""


def _cell(tables: Tables, table: str, column: str, row: Any) -> int:
    if not isinstance(row, int) or not 0 <= row < tables[table].rows:
        raise GestureError(f"row {row!r} of {table} came; there are {tables[table].rows} rows")
    return int(tables[table].cell(column, row))


def _node(args: Arguments, tables: Tables) -> NodeId:
    return NodeId(_cell(tables, "nodes", "id", args.get("node")))


def _fork(args: Arguments, tables: Tables) -> Command:
    row = args.get("row")
    branch = _cell(tables, "tokens", "branch", row)
    rank, token = args.get("rank"), args.get("token")
    return ForkAt(
        seq=SeqId(_cell(tables, "branches", "id", branch)),
        index=_cell(tables, "tokens", "index", row),
        token=int(token) if token is not None else None,
        rank=int(rank) if rank is not None and rank >= 0 else None,
    )


GESTURES: dict[str, Callable[[Arguments, Tables], Command]] = {
    "pause": lambda args, tables: Pause(),
    "resume": lambda args, tables: Resume(),
    "step": lambda args, tables: StepTokens(int(args.get("n", 1))),
    "step_out": lambda args, tables: StepOut(_node(args, tables) if "node" in args else None),
    "prune": lambda args, tables: PruneNode(_node(args, tables)),
    "pin": lambda args, tables: PinNode(_node(args, tables)),
    "unpin": lambda args, tables: PinNode(_node(args, tables), pinned=False),
    "note": lambda args, tables: AddNote(str(args.get("text", "")), _node(args, tables)),
    "fork": _fork,
}


def command_of(verb: str, args: Arguments, tables: Tables) -> Command:
    """The command that a gesture means. GestureError where it means none."""
    if verb not in GESTURES:
        raise GestureError(f"gesture {verb!r} is not known; there are {', '.join(GESTURES)}")
    return GESTURES[verb](args, tables)


def obey(
    submit: Submit | None,
    message: Mapping[str, Any],
    tables: Callable[[], Tables],
    reply: Callable[[dict[str, Any]], None],
) -> None:
    """Hand the gesture in; `reply` gets the answer, now or from the thread that carried it out."""
    answer = {"kind": "answer", "id": message.get("id")}

    def refuse(why: object) -> None:
        reply({**answer, "ok": False, "why": str(why) or type(why).__name__})

    if submit is None:
        refuse("no engine is behind this view")
        return
    try:
        command = command_of(str(message.get("verb")), message.get("args") or {}, tables())
        future = submit(command)
    except Exception as error:  # whatever it is, the view that asked must hear it
        refuse(error)
        return

    def done(future: "Future[Any]") -> None:
        if future.cancelled():
            refuse("the engine dropped it")
        elif (error := future.exception()) is not None:
            refuse(error)
        else:
            reply({**answer, "ok": True})

    future.add_done_callback(done)
