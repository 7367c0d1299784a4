"""A request made ready to run: which strategy, which tokens, which tools; or why not."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.api.body import ChatRequest, Extension
from workbench.api.chat import Chat
from workbench.api.errors import ApiError
from workbench.api.prompts import question, turns
from workbench.api.tools import ClientTool
from workbench.engine.grammar import GrammarError, compile_schema, lark
from workbench.engine.protocols import Sampler
from workbench.model.errors import ModelError
from workbench.reasoning import Strategy, make_strategy, strategies
from workbench.session import Session
from workbench.session.context import make_budget
from workbench.tools import Tool


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What `Session.run` takes, and the request as it is understood."""

    asked: ChatRequest
    strategy: Strategy
    prompt: str
    seed: int
    ids: tuple[int, ...] | None = None
    tools: tuple[Tool, ...] = ()
    remote: tuple[ClientTool, ...] = ()  # the client's, that a strategy may call too

    @property
    def is_tree(self) -> bool:
        return not isinstance(self.strategy, Chat)


def models(session: Session) -> list[str]:
    """The net's name for plain chat, and one name a strategy."""
    name = session.model.source.name
    return [name, *(f"{name}/{strategy}" for strategy in sorted(strategies()))]


def plan(session: Session, tools: Sequence[Tool], asked: ChatRequest) -> Plan:
    """May take tenths of a second (grammars, long texts): not for an event loop. Raises
    ApiError."""
    asked = named_strategy(session, asked)
    seed = secrets.randbits(31) if asked.seed is None else asked.seed % (1 << 63)
    if asked.extension.strategy:
        return _strategy(asked, seed, tools)
    if asked.extension != Extension(events=asked.extension.events):
        raise ApiError(
            "workbench: params, tools and budget belong to a strategy; name one in"
            " workbench.strategy or in model",
            "workbench",
        )
    return _chat(session, asked, seed)


def named_strategy(session: Session, asked: ChatRequest) -> ChatRequest:
    """`NAME/STRATEGY` as model means the strategy of that name."""
    if asked.model not in (names := models(session)):
        raise ApiError(
            f"model {asked.model!r} is not served here; {', '.join(names)} are",
            "model",
            status=404,
            code="model_not_found",
        )
    strategy = asked.model.removeprefix(names[0]).removeprefix("/")
    if not strategy:
        return asked
    if asked.extension.strategy not in ("", strategy):
        raise ApiError(
            f"model says {strategy}, workbench.strategy says {asked.extension.strategy}; leave one"
            " of them out",
            "workbench.strategy",
        )
    return replace(asked, extension=replace(asked.extension, strategy=strategy))


def _chat(session: Session, asked: ChatRequest, seed: int) -> Plan:
    texts = session.texts
    try:
        ids = tuple(texts.tokenizer.chat(turns(asked.messages, asked.tools)))
    except ModelError as error:
        raise ApiError(f"messages: {error}", "messages") from error
    limit = session.engine.limit
    if len(ids) >= limit:
        raise ApiError(
            f"messages: they are {len(ids)} tokens, the window holds {limit}; shorten them",
            "messages",
            code="context_length_exceeded",
        )
    chat = Chat(
        vocabulary=texts.vocabulary,
        n=asked.n,
        max_tokens=asked.max_tokens,
        stop=asked.stop,
        sampler=Sampler(
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            min_p=asked.min_p,
            repetition_penalty=asked.repetition_penalty,
            presence_penalty=asked.presence_penalty,
            bias=asked.bias or {},
        ),
        schema=_schema(asked),
        tools=asked.tools,
    )
    if chat.schema or asked.tools.offered:
        assert texts.vocabulary.compiled  # once, and not on the engine's thread
    if asked.tools.offered:
        _checked_tools(session, asked)
    if any(not 0 <= token < session.model.facts.vocabulary for token in chat.sampler.bias):
        raise ApiError(
            f"logit_bias: token ids below {session.model.facts.vocabulary} are wanted",
            "logit_bias",
        )
    return Plan(asked, chat, asked.messages[-1].content, seed, ids)


def _schema(asked: ChatRequest) -> str | None:
    if asked.schema is None:
        return None
    try:
        return compile_schema(asked.schema)
    except GrammarError as error:
        raise ApiError(f"response_format: {error}", "response_format") from error


def _checked_tools(session: Session, asked: ChatRequest) -> None:
    try:
        lark(session.texts.vocabulary, asked.tools.grammar())
    except GrammarError as error:
        raise ApiError(f"tools: {error}", "tools") from error


NOT_FOR_TREES = (
    ("n", lambda asked: asked.n > 1, "a strategy gives one answer"),
    ("logprobs", lambda asked: asked.logprobs, "a strategy's tokens have none here"),
    ("stop", lambda asked: bool(asked.stop), "a strategy ends by its own rule"),
    ("logit_bias", lambda asked: bool(asked.bias), "a strategy's sampler has none"),
    ("tool_choice", lambda asked: asked.tools.choice == "required", "a strategy chooses itself"),
    ("response_format", lambda asked: asked.schema is not None, "a strategy's answer is text"),
)
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens")


def _strategy(asked: ChatRequest, seed: int, offered: Sequence[Tool]) -> Plan:
    for name, is_asked, why in NOT_FOR_TREES:
        if is_asked(asked):
            raise ApiError(f"{name}: {why}; leave it out, or ask for plain chat", name)
    extension = asked.extension
    params: dict[str, Any] = dict(extension.params or {})
    fields = getattr(strategies().get(extension.strategy), "__dataclass_fields__", {})
    for name in SAMPLING:  # the body's own fields, where the strategy has them
        value = getattr(asked, name)
        if name in fields and name not in params and value != getattr(DEFAULTS, name):
            params[name] = value
    try:
        strategy = make_strategy(extension.strategy, params)
        make_budget(extension.budget or {})
    except ValueError as error:
        raise ApiError(f"workbench: {error}", "workbench") from error
    prompt = question(asked.messages)
    if not prompt.strip():
        raise ApiError("messages: the question is empty", "messages")
    tools = _tools(extension, offered)
    remote = asked.tools.tools if asked.tools.offered else ()
    names = [tool.name for tool in tools] + [tool.name for tool in remote]
    if len(set(names)) < len(names):
        raise ApiError(f"tools: a tool of this server has that name too: {names}", "tools")
    structure = getattr(strategy, "structure", None)
    if structure is not None and (missing := structure.unserved(names)):
        raise ApiError(f"workbench.params.structure: {missing}", "workbench.params.structure")
    return Plan(asked, strategy, prompt, seed, None, tools, remote)


DEFAULTS = ChatRequest("", ())


def _tools(extension: Extension, offered: Sequence[Tool]) -> tuple[Tool, ...]:
    if extension.tools is None:
        return tuple(offered)
    by_name = {tool.name: tool for tool in offered}
    for name in extension.tools:
        if name not in by_name:
            raise ApiError(
                f"workbench.tools: {name!r} is not offered; {', '.join(by_name) or 'none'} are"
                " (--tools of `workbench serve`)",
                "workbench.tools",
            )
    return tuple(by_name[name] for name in extension.tools)
