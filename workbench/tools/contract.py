"""What a tool owes, and the one way by which it is called: bounded in time and size, never
raising."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol

TIMEOUT = 10.0  # seconds
MAX_CHARS = 4000  # of a result's JSON


class ToolError(ValueError):
    """What a tool says when it cannot answer; it becomes the result that the tree reads."""


class Tool(Protocol):
    """A function that a tree may call. `parameters` is the JSON schema of its arguments. One that
    has a `timeout` (seconds) may take so long."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def parameters(self) -> Mapping[str, Any]: ...

    def __call__(self, **arguments: Any) -> Any:
        """A JSON value. May block; it runs on a thread of its own. Raises ToolError to say why
        not."""


@dataclass(frozen=True, slots=True)
class Outcome:
    ok: bool
    text: str  # compact JSON, as fed to the tree
    seconds: float


def compact(value: object) -> str:
    """JSON without spaces. Raises ValueError for what JSON cannot say (NaN, half a surrogate
    pair)."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    text.encode("utf-8")
    return text


def failure(why: str, seconds: float = 0.0) -> Outcome:
    return Outcome(False, compact({"error": why}), seconds)


async def invoke(
    tool: Tool | None,
    arguments: object,
    *,
    timeout: float = TIMEOUT,
    max_chars: int = MAX_CHARS,
) -> Outcome:
    """Call `tool`. Whatever goes wrong (no such tool, wrong arguments, a raise, a hang, a result
    that is too large or no JSON) is an outcome with an `error` object."""
    if tool is None:
        return failure("there is no tool of that name")
    if not isinstance(arguments, Mapping):
        return failure(
            f"{tool.name}: an object of parameters is wanted, {compact(arguments)[:80]} came"
        )
    wrong = complaint(arguments, tool.parameters)
    if wrong:
        return failure(f"{tool.name}: {wrong}")
    start = time.perf_counter()
    try:
        value = await asyncio.wait_for(_on_a_thread(lambda: tool(**arguments)), timeout)
    except TimeoutError:
        return failure(f"{tool.name}: no answer within {timeout:g} s", time.perf_counter() - start)
    except ToolError as error:
        return failure(f"{tool.name}: {error}", time.perf_counter() - start)
    except Exception as error:  # a tool is somebody else's code: its failure is a result
        why = f"{tool.name}: {type(error).__name__}: {error}"
        return failure(why[:500], time.perf_counter() - start)
    seconds = time.perf_counter() - start
    try:
        text = compact(value)
    except (TypeError, ValueError) as error:
        return failure(f"{tool.name}: its result is no JSON ({error})", seconds)
    if len(text) > max_chars:
        return failure(
            f"{tool.name}: the result has {len(text)} characters, at most {max_chars}", seconds
        )
    return Outcome(True, text, seconds)


async def _on_a_thread(work: Callable[[], Any]) -> Any:
    """Like `asyncio.to_thread`, but on a daemon thread that nobody else has, so that a tool that
    hangs keeps neither the others nor the interpreter's exit waiting."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_result(value) if error is None else future.set_exception(error)

    def run() -> None:
        value, failed = None, None
        try:
            value = work()
        except BaseException as error:
            failed = error if isinstance(error, Exception) else RuntimeError(repr(error))
        try:
            loop.call_soon_threadsafe(settle, value, failed)
        except RuntimeError:
            return  # the loop has gone; nobody waits any more

    _hand_over(run)
    return await future


_Jobs = SimpleQueue[Callable[[], None]]
_idle: list[_Jobs] = []  # of threads that wait for work: to begin one takes longer than most calls


def _hand_over(work: Callable[[], None]) -> None:
    try:
        jobs = _idle.pop()
    except IndexError:
        jobs = SimpleQueue()
        threading.Thread(target=_serve, args=(jobs,), name="tool", daemon=True).start()
    jobs.put(work)


def _serve(jobs: _Jobs) -> None:
    while True:
        jobs.get()()
        _idle.append(jobs)


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def complaint(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What is wrong with the arguments, in the shallow: names and types. Empty when nothing is."""
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in arguments:
            return f"parameter {name!r} is missing"
    for name, value in arguments.items():
        if name not in known:
            return f"parameter {name!r} is not known; known: {', '.join(known) or 'none'}"
        kind = known[name].get("type")
        fits = not isinstance(kind, str) or isinstance(value, _TYPES[kind])
        if not fits or (kind in ("integer", "number") and isinstance(value, bool)):
            return f"parameter {name!r}: {kind} is wanted, {compact(value)[:60]} came"
    return ""
