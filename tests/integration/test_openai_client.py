"""A real client against the endpoint: the `openai` package's quick start, stream and tools
included."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.unit.api.serving import Scripted, served, session_of
from workbench.session import open_workbench
from workbench.tasks.catalogue import task
from workbench.tools import Lookup

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
CALL = '<tool_call>\n{"name":"get_weather","arguments":{"city":"Rome"}}\n</tool_call>'
SCRIPT = {
    "user:Say hello.\n": "Hello there!<end>",
    "user:Weather in Rome?\n": f"{CALL}<end>",
    "user:<tool_response>\n31 degrees\n</tool_response>\n": "It is 31 degrees.<end>",
}


def client_of(url: str, token: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key=token, max_retries=0, timeout=300)


@pytest.fixture(scope="module")
def tiny() -> Iterator[openai.OpenAI]:
    with session_of(Scripted(SCRIPT)) as session, served(session, token="key") as endpoint:
        yield client_of(endpoint.url, "key")


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_quick_start(tiny: openai.OpenAI) -> None:
    assert tiny.models.list().data[0].id == "fake"
    reply = tiny.chat.completions.create(
        model="fake", messages=user("Say hello."), temperature=0, logprobs=True, top_logprobs=3
    )
    assert reply.choices[0].message.content == "Hello there!"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].logprobs and reply.choices[0].logprobs.content
    assert reply.choices[0].logprobs.content[0].token == "H"
    assert reply.usage and reply.usage.prompt_tokens == len("user:Say hello.\n")


def test_stream(tiny: openai.OpenAI) -> None:
    stream = tiny.chat.completions.create(
        model="fake",
        messages=user("Say hello."),
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Hello there!" and chunks[-1].usage is not None


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_round_trip(tiny: openai.OpenAI, stream: bool) -> None:
    messages = user("Weather in Rome?")
    asked: dict[str, Any] = {"model": "fake", "tools": [WEATHER], "temperature": 0}
    if stream:
        with tiny.chat.completions.stream(messages=messages, **asked) as told:
            first = told.get_final_completion().choices[0]
    else:
        first = tiny.chat.completions.create(messages=messages, **asked).choices[0]
    assert first.finish_reason == "tool_calls" and first.message.tool_calls
    [call] = first.message.tool_calls
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Rome"}
    messages += [
        first.message.to_dict(),
        {"role": "tool", "tool_call_id": call.id, "content": "31 degrees"},
    ]
    last = tiny.chat.completions.create(messages=messages, **asked)
    assert last.choices[0].message.content == "It is 31 degrees."


def test_errors_are_the_clients_own(tiny: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="0 to 2"):
        tiny.chat.completions.create(model="fake", messages=user("x"), temperature=7)
    with pytest.raises(openai.NotFoundError, match="not served"):
        tiny.chat.completions.create(model="gpt", messages=user("x"))
    with pytest.raises(openai.AuthenticationError, match="token"):
        tiny.with_options(api_key="wrong").models.list()


@pytest.mark.model
def test_the_embedded_model() -> None:
    problem = task("chain", 2, 0)
    tool = Lookup(problem.results, problem.tool, problem.parameter)
    opened = open_workbench(backend="cpu", record_top=20)
    with opened as session, served(session, tools=[tool]) as endpoint:
        client, name = client_of(endpoint.url), session.model.source.name
        asked = {"model": name, "messages": user("What is the capital of France?")}
        create: Any = client.chat.completions.create
        whole = create(**asked, temperature=0, max_tokens=24).choices[0].message.content
        told = create(**asked, temperature=0, max_tokens=24, stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in told) == whole
        # the same prompt and net as a run of the workbench itself
        ids = session.texts.tokenizer.chat(asked["messages"])
        run = session.run("x", "chain", ids=ids, max_tokens=24)
        run.wait(120)
        branch = next(iter(run.contexts[0].branches.values()))
        said = [t for t in branch.tokens[len(ids) :] if t not in session.texts.eos]
        assert session.model.tokenizer.decode(said) == whole
        held = create(
            **asked,
            max_tokens=40,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "c", "schema": COLOUR, "strict": True},
            },
        )
        assert json.loads(held.choices[0].message.content)["colour"] in ("red", "green", "blue")
        call = create(**asked, tools=[WEATHER], tool_choice="required", max_tokens=60)
        assert call.choices[0].message.tool_calls[0].function.name == "get_weather"
        # a tree with a tool of the server's, by the model's name alone
        tree = {"model": f"{name}/tim", "messages": user(problem.prompt), "temperature": 0}
        stream = create(**tree, stream=True, extra_body={"workbench": {"events": True}})
        answer, events = "", []
        for chunk in stream:
            answer += chunk.choices[0].delta.content or ""
            events += [chunk.workbench] if getattr(chunk, "workbench", None) else []
        assert answer == problem.answer
        calls = [event for event in events if event["type"] == "tool_called"]
        assert len(calls) == problem.steps and all(event["tool"] == tool.name for event in calls)
        assert any(event["type"] == "pruned" for event in events)
