"""Malformed requests: each is a 400 that names the field and gives a reason."""

from typing import Any

import pytest

from workbench.api.body import read_request
from workbench.api.errors import ApiError
from workbench.api.prompts import question, turns

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def good(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER], **more}


@pytest.mark.parametrize(
    ("body", "param", "reason"),
    [
        ([], "the body", "an object is wanted"),
        ({"messages": [USER]}, "model", "nothing came"),
        ({"model": "m"}, "messages", "a list is wanted"),
        (good(messages=[]), "messages", "at least one"),
        (good(messages=["hi"]), "messages[0]", "an object"),
        (good(messages=[{"role": "robot", "content": "x"}]), "messages[0].role", "'robot'"),
        (good(messages=[{"role": "user"}]), "messages[0].content", "nothing came"),
        (
            good(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            "messages[0].content[0].type",
            "text alone",
        ),
        (
            good(messages=[USER, {"role": "tool", "content": "1", "tool_call_id": "x"}]),
            "messages[1].tool_call_id",
            "answers no call",
        ),
        (
            good(messages=[{"role": "user", "content": "x", "tool_calls": [CALL]}]),
            "messages[0].tool_calls",
            "only an assistant",
        ),
        (good(temperature=3), "temperature", "0 to 2"),
        (good(temperature=True), "temperature", "True"),
        (good(temperature="1"), "temperature", "'1'"),
        (good(top_p=0), "top_p", "more than 0"),
        (good(n=0), "n", "1 to 32"),
        (good(n=1.5), "n", "1.5"),
        (good(max_tokens=0), "max_tokens", "1 or more"),
        (good(max_tokens=3, max_completion_tokens=3), "max_tokens", "one of them"),
        (good(stop=["a"] * 5), "stop", "up to 4"),
        (good(stop=[""]), "stop", "none empty"),
        (good(stop=7), "stop", "a list is wanted"),
        (good(stream="yes"), "stream", "true or false"),
        (good(stream_options={"include_usage": True}), "stream_options", "stream: true"),
        (good(top_logprobs=2), "top_logprobs", "logprobs: true"),
        (good(logprobs=True, top_logprobs=21), "top_logprobs", "0 to 20"),
        (good(seed="x"), "seed", "whole number"),
        (good(frequency_penalty=1), "frequency_penalty", "only 0"),
        (good(logit_bias={"x": 1}), "logit_bias", "token ids"),
        (good(nonsense=1), "nonsense", "not known"),
        (good(response_format={"type": "xml"}), "response_format.type", "'xml'"),
        (
            good(response_format={"type": "json_schema", "json_schema": {"name": "x"}}),
            "response_format.json_schema.schema",
            "nothing came",
        ),
        (good(tools=[{"type": "web"}]), "tools[0].type", "function is wanted"),
        (
            good(tools=[{"type": "function", "function": {"name": "a b"}}]),
            "tools[0].function.name",
            "'a b'",
        ),
        (
            good(
                tools=[
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {"type": "objekt"}},
                    }
                ]
            ),
            "tools[0].function.parameters",
            "JSON schema at #",
        ),
        (good(tools=[TOOL, TOOL]), "tools", "must differ"),
        (good(tool_choice="auto"), "tool_choice", "needs tools"),
        (good(tools=[TOOL], tool_choice="maybe"), "tool_choice", "'maybe'"),
        (
            good(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "g"}}),
            "tool_choice",
            "one of f",
        ),
        (
            good(tools=[TOOL], response_format={"type": "json_object"}),
            "response_format",
            "together",
        ),
        (good(workbench={"stratgy": "tim"}), "workbench.stratgy", "strategy"),
        (good(workbench={"tools": "lookup"}), "workbench.tools", "a list is wanted"),
    ],
)
def test_a_malformed_body_is_refused_with_a_reason(body: Any, param: str, reason: str) -> None:
    with pytest.raises(ApiError) as refusal:
        read_request(body)
    assert refusal.value.status == 400
    assert refusal.value.param == param
    assert reason in refusal.value.message


def test_what_changes_nothing_is_taken() -> None:
    asked = read_request(good(user="me", metadata={"a": "b"}, store=False, frequency_penalty=0))
    assert (asked.n, asked.temperature, asked.max_tokens) == (1, 1.0, None)


def test_a_conversation_with_tools_becomes_plain_turns() -> None:
    asked = read_request(
        good(
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "two"}]},
                {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "c2"}]},
                {"role": "tool", "content": "1", "tool_call_id": "c1"},
                {"role": "tool", "content": "2", "tool_call_id": "c2"},
            ],
            tools=[TOOL],
        )
    )
    system, user, calls, results = turns(asked.messages, asked.tools)
    assert (
        system["content"].startswith("Be brief.\n\n# Tools") and '"name": "f"' in system["content"]
    )
    assert user == {"role": "user", "content": "two"}
    assert calls["content"].count("<tool_call>") == 2
    assert results["role"] == "user"
    assert results["content"].split("\n")[1::3] == ["1", "2"]
    with pytest.raises(ApiError, match="one user message"):
        question(asked.messages)
