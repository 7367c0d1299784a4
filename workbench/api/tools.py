"""Function tools that a client brings: how they are read, told to a model, and called by it.

The form is the one that Qwen and Hermes models were trained on: definitions in the system text,
calls as `<tool_call>` JSON `</tool_call>` in the reply. Behind the opening tag the grammar holds
the call to a tool's name and its parameters' schema, so that a call is always whole.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.api.errors import ApiError
from workbench.api.fields import Body, flag, given, items, known, mapping, shown, text
from workbench.engine.grammar import GrammarError, compile_schema

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_CALLS = 16  # in one reply
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
ANY = {"type": "object", "properties": {}, "additionalProperties": False}

TOLD = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{signatures}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


@dataclass(frozen=True, slots=True)
class ClientTool:
    """A function that the client runs."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    @property
    def signature(self) -> str:
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }
        return json.dumps({"type": "function", "function": function}, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a request says of tools. `choice` is auto, required or none; with a function named,
    required, and `tools` holds that one alone."""

    tools: tuple[ClientTool, ...] = ()
    choice: str = "none"
    parallel: bool = True

    @property
    def offered(self) -> bool:
        return bool(self.tools) and self.choice != "none"

    @property
    def told(self) -> str:
        """The system text that tells a model of them."""
        return TOLD.format(signatures="\n".join(tool.signature for tool in self.tools))

    def grammar(self) -> str:
        """Lark: calls from behind an opening tag on (`auto`), or from the tag on (`required`)."""
        call = {
            "x-guidance": {"whitespace_flexible": False},
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"name": {"const": tool.name}, "arguments": tool.parameters},
                    "required": ["name", "arguments"],
                    "additionalProperties": False,
                }
                for tool in self.tools
            ],
        }
        first = f'"{OPEN}\\n"' if self.choice == "required" else '"\\n"?'
        more = f'("\\n{OPEN}\\n" call "\\n{CLOSE}"){{0,{MAX_CALLS - 1}}}' if self.parallel else ""
        return f'start: {first} call "\\n{CLOSE}" {more}\ncall: %json {json.dumps(call)}\n'


NO_TOOLS = ToolUse()


def read_tools(body: Body) -> ToolUse:
    tools = _definitions(body)
    parallel = flag(body, "parallel_tool_calls", True)
    if not given(body, "tool_choice"):
        return ToolUse(tools, "auto" if tools else "none", parallel)
    choice = body["tool_choice"]
    if choice == "none":
        return ToolUse(tools, "none", parallel)
    if not tools:
        raise ApiError("tool_choice needs tools; none came", "tool_choice")
    if choice in ("auto", "required"):
        return ToolUse(tools, choice, parallel)
    if not isinstance(choice, Mapping) or choice.get("type") != "function":
        raise ApiError(
            "tool_choice: none, auto, required or"
            ' {"type":"function","function":{"name":…}} is wanted,'
            f" {shown(choice)} came",
            "tool_choice",
        )
    name = text(mapping(choice.get("function"), "tool_choice.function"), "name", "tool_choice")
    named = tuple(tool for tool in tools if tool.name == name)
    if not named:
        raise ApiError(
            f"tool_choice: one of {', '.join(tool.name for tool in tools)} is wanted,"
            f" {name!r} came",
            "tool_choice",
        )
    return ToolUse(named, "required", parallel)


def _definitions(body: Body) -> tuple[ClientTool, ...]:
    if not given(body, "tools"):
        return ()
    tools = tuple(
        _tool(item, f"tools[{i}]") for i, item in enumerate(items(body["tools"], "tools"))
    )
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise ApiError(f"tools: names must differ, {', '.join(names)} came", "tools")
    return tools


def _tool(value: Any, where: str) -> ClientTool:
    body = mapping(value, where)
    if body.get("type") != "function":
        raise ApiError(
            f"{where}.type: function is wanted, {shown(body.get('type'))} came", f"{where}.type"
        )
    function = mapping(body.get("function"), f"{where}.function")
    known(
        function, frozenset(("name", "description", "parameters", "strict")), f"{where}.function."
    )
    name = text(function, "name", f"{where}.function.name")
    if not NAME.fullmatch(name):
        raise ApiError(
            f"{where}.function.name: 1 to 64 letters, digits, _ or - are wanted, {name!r} came",
            f"{where}.function.name",
        )
    schema: Any = ANY
    if given(function, "parameters"):
        schema = mapping(function["parameters"], f"{where}.function.parameters")
    try:
        compile_schema(schema)
    except GrammarError as error:
        param = f"{where}.function.parameters"
        raise ApiError(f"{param}: {error}", param) from error
    return ClientTool(name, text(function, "description", default=""), schema)
