"""The body of `/v1/chat/completions`, read once into a value; what cannot be served is refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.api.errors import ApiError
from workbench.api.fields import (
    Body,
    flag,
    given,
    integer,
    items,
    known,
    mapping,
    number,
    shown,
    text,
)
from workbench.api.prompts import Message, read_messages
from workbench.api.tools import NO_TOOLS, ToolUse, read_tools

SERVED = frozenset(
    (
        "model messages stream stream_options tools tool_choice parallel_tool_calls response_format"
        " logprobs top_logprobs n seed stop max_tokens max_completion_tokens temperature top_p"
        " top_k min_p repetition_penalty presence_penalty logit_bias workbench"
    ).split()
)
# told to a server for its own books, without effect on the text
IDLE = frozenset(
    "user metadata store service_tier safety_identifier prompt_cache_key frequency_penalty".split()
)
EXTENSION = frozenset("strategy params tools budget events".split())
MAX_STOPS = 4
MAX_CHOICES = 32
MAX_TOP = 20

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Extension:
    """The field `workbench` of a body: a strategy of this server in place of plain chat."""

    strategy: str = ""  # empty: plain chat
    params: Mapping[str, Any] | None = None
    tools: tuple[str, ...] | None = None  # of the server's; None: all of them
    budget: Mapping[str, Any] | None = None
    events: bool = False  # tree and prune events in the reply


@dataclass(frozen=True, slots=True, eq=False)
class ChatRequest:
    model: str
    messages: tuple[Message, ...]
    stream: bool = False
    include_usage: bool = False
    tools: ToolUse = NO_TOOLS
    schema: Schema | None = None  # that the text obeys
    logprobs: bool = False
    top_logprobs: int = 0
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    bias: Mapping[int, float] | None = None
    extension: Extension = Extension()


def read_request(body: Any) -> ChatRequest:
    """Raises ApiError with the field and the reason."""
    body = mapping(body, "the body")
    known(body, SERVED | IDLE)
    if number(body, "frequency_penalty", 0.0, -2, 2) != 0:
        raise ApiError(
            "frequency_penalty: only 0 is served; use repetition_penalty or presence_penalty",
            "frequency_penalty",
        )
    tools = read_tools(body)
    schema = _schema(body)
    if schema is not None and tools.offered:
        raise ApiError(
            "response_format and tools cannot be asked for together; leave one of them out, or"
            " set tool_choice to none",
            "response_format",
        )
    logprobs, top = flag(body, "logprobs"), integer(body, "top_logprobs", 0, 0, MAX_TOP)
    if top and not logprobs:
        raise ApiError("top_logprobs needs logprobs: true", "top_logprobs")
    stream = flag(body, "stream")
    return ChatRequest(
        model=text(body, "model"),
        messages=read_messages(body.get("messages")),
        stream=stream,
        include_usage=_include_usage(body, stream),
        tools=tools,
        schema=schema,
        logprobs=logprobs,
        top_logprobs=top,
        n=integer(body, "n", 1, 1, MAX_CHOICES),
        seed=integer(body, "seed", None, -(1 << 63), (1 << 63) - 1),
        stop=_stops(body.get("stop")),
        max_tokens=_max_tokens(body),
        temperature=number(body, "temperature", 1.0, 0, 2),
        top_p=_above_zero(body, "top_p", 1.0, 1),
        top_k=integer(body, "top_k", 0, 0),
        min_p=number(body, "min_p", 0.0, 0, 1),
        repetition_penalty=_above_zero(body, "repetition_penalty", 1.0, 10),
        presence_penalty=number(body, "presence_penalty", 0.0, -2, 2),
        bias=_bias(body.get("logit_bias")),
        extension=_extension(body.get("workbench")),
    )


def _max_tokens(body: Body) -> int | None:
    if given(body, "max_tokens") and given(body, "max_completion_tokens"):
        raise ApiError(
            "max_tokens and max_completion_tokens mean the same; send one of them", "max_tokens"
        )
    name = "max_tokens" if given(body, "max_tokens") else "max_completion_tokens"
    return integer(body, name, None, 1)


def _above_zero(body: Body, name: str, default: float, most: float) -> float:
    value = number(body, name, default, 0, most)
    if value == 0:
        raise ApiError(f"{name}: more than 0 is wanted, 0 came", name)
    return value


def _include_usage(body: Body, stream: bool) -> bool:
    if not given(body, "stream_options"):
        return False
    if not stream:
        raise ApiError("stream_options needs stream: true", "stream_options")
    options = mapping(body["stream_options"], "stream_options")
    known(options, frozenset(("include_usage", "include_obfuscation")), "stream_options.")
    return flag(options, "include_usage")


def _stops(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else items(value, "stop")
    if len(stops) > MAX_STOPS or not all(isinstance(stop, str) and stop for stop in stops):
        raise ApiError(
            f"stop: a text or up to {MAX_STOPS} texts, none empty, are wanted; {value!r} came",
            "stop",
        )
    return tuple(stops)


def _bias(value: Any) -> Mapping[int, float] | None:
    if value is None:
        return None
    try:
        return {int(key): float(bias) for key, bias in mapping(value, "logit_bias").items()}
    except (TypeError, ValueError):
        raise ApiError(
            f"logit_bias: token ids with a number each are wanted, {value!r} came", "logit_bias"
        ) from None


def _schema(body: Body) -> Schema | None:
    if not given(body, "response_format"):
        return None
    chosen = mapping(body["response_format"], "response_format")
    kind = chosen.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise ApiError(
            f"response_format.type: text, json_object or json_schema is wanted, {shown(kind)} came",
            "response_format.type",
        )
    named = mapping(chosen.get("json_schema"), "response_format.json_schema")
    if "schema" not in named:
        raise ApiError(
            "response_format.json_schema.schema: a JSON schema is wanted, nothing came",
            "response_format.json_schema.schema",
        )
    return mapping(named["schema"], "response_format.json_schema.schema")


def _extension(value: Any) -> Extension:
    if value is None:
        return Extension()
    body = mapping(value, "workbench")
    known(body, EXTENSION, "workbench.")
    tools = body.get("tools")
    if tools is not None:
        names = items(tools, "workbench.tools")
        if not all(isinstance(name, str) for name in names):
            raise ApiError("workbench.tools: names of tools are wanted", "workbench.tools")
        tools = tuple(names)
    return Extension(
        text(body, "strategy", "workbench.strategy", default=""),
        None if body.get("params") is None else mapping(body["params"], "workbench.params"),
        tools,
        None if body.get("budget") is None else mapping(body["budget"], "workbench.budget"),
        flag(body, "events"),
    )
