"""Messages of a conversation: read, and written as the plain turns that a chat template takes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.api.errors import ApiError
from workbench.api.fields import items, mapping, shown, text
from workbench.api.tools import CLOSE, OPEN, ToolUse

ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call that an earlier reply made."""

    id: str
    name: str
    arguments: str  # JSON


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str
    calls: tuple[Call, ...] = ()
    answers: str = ""  # id of the call that a tool message answers


def read_messages(value: Any) -> tuple[Message, ...]:
    messages = [_message(item, f"messages[{i}]") for i, item in enumerate(items(value, "messages"))]
    if not messages:
        raise ApiError("messages: at least one message is wanted, none came", "messages")
    called = {call.id for message in messages for call in message.calls}
    for i, message in enumerate(messages):
        if message.role == "tool" and message.answers not in called:
            raise ApiError(
                f"messages[{i}].tool_call_id: {message.answers!r} answers no call of an earlier"
                " assistant message; send that message too",
                f"messages[{i}].tool_call_id",
            )
    return tuple(messages)


def _message(value: Any, where: str) -> Message:
    body = mapping(value, where)
    role = body.get("role")
    if role not in ROLES:
        raise ApiError(
            f"{where}.role: {', '.join(ROLES)} are wanted, {shown(role)} came", f"{where}.role"
        )
    calls = tuple(
        _call(item, f"{where}.tool_calls[{i}]")
        for i, item in enumerate(items(body.get("tool_calls") or [], f"{where}.tool_calls"))
    )
    if calls and role != "assistant":
        raise ApiError(f"{where}.tool_calls: only an assistant makes them", f"{where}.tool_calls")
    content = body.get("content")
    if content is None and calls:
        content = ""
    answers = text(body, "tool_call_id", f"{where}.tool_call_id") if role == "tool" else ""
    return Message(role, _text(content, f"{where}.content"), calls, answers)


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    parts = []
    for i, part in enumerate(items(content, where)):
        kind = mapping(part, f"{where}[{i}]").get("type")
        if kind != "text":
            raise ApiError(
                f"{where}[{i}].type: this model reads text alone, {shown(kind)} came",
                f"{where}[{i}].type",
            )
        parts.append(text(part, "text", f"{where}[{i}].text"))
    return "".join(parts)


def _call(value: Any, where: str) -> Call:
    body = mapping(value, where)
    function = mapping(body.get("function"), f"{where}.function")
    name = text(function, "name", f"{where}.function.name")
    arguments = text(function, "arguments", f"{where}.function.arguments")
    try:
        json.loads(arguments)
    except ValueError as error:
        param = f"{where}.function.arguments"
        raise ApiError(f"{param}: JSON is wanted ({error})", param) from error
    return Call(text(body, "id", f"{where}.id"), name, arguments)


def turns(messages: Sequence[Message], tools: ToolUse) -> list[Mapping[str, str]]:
    """Roles and texts for a chat template: tools told in the system text, calls and their results
    as tagged text, neighbouring results in one user turn."""
    written: list[dict[str, str]] = []
    system = [m.content for m in messages if m.role in ("system", "developer")]
    if tools.offered:
        system.append(tools.told)
    if system:
        written.append({"role": "system", "content": "\n\n".join(system)})
    was_tool = False
    for message in messages:
        if message.role in ("system", "developer"):
            continue
        content = _written(message)
        if message.role == "tool" and was_tool:
            written[-1]["content"] += "\n" + content
        else:
            role = "user" if message.role == "tool" else message.role
            written.append({"role": role, "content": content})
        was_tool = message.role == "tool"
    return list(written)


def _written(message: Message) -> str:
    if message.role == "tool":
        return f"<tool_response>\n{message.content}\n</tool_response>"
    calls = [
        f'{OPEN}\n{{"name":{json.dumps(call.name)},"arguments":{call.arguments}}}\n{CLOSE}'
        for call in message.calls
    ]
    return "\n".join([message.content] * bool(message.content) + calls)


def question(messages: Sequence[Message]) -> str:
    """The one question that a strategy works on. Raises ApiError where there are several turns."""
    asked = [m.content for m in messages if m.role == "user"]
    if len(asked) != 1 or any(m.role in ("assistant", "tool") for m in messages):
        raise ApiError(
            "messages: a strategy works on one user message, with system messages before it; send"
            " that alone, or ask for plain chat. (No call waits for the result of a tool that came:"
            " it may have waited too long.)",
            "messages",
        )
    system = [m.content for m in messages if m.role in ("system", "developer")]
    return "\n\n".join([*system, *asked])
