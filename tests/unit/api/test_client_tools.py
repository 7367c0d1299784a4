"""A client's tool inside a tree: the inference waits and goes on, and computes nothing twice."""

import json
import time
from typing import Any

import pytest

from tests.unit.api.serving import ask, chunks, served, session_of
from tests.unit.session.fake_model import FakeModel
from workbench.api.serve import Endpoint
from workbench.session import Session
from workbench.tools import python_function
from workbench.words import Finish

LOOK = {"name": "look", "tools": ["weather"], "must_call": True}
TYPES = [LOOK, {"name": "day", "subtasks": {"sequence": ["look", "look"]}}]
STRUCTURE = {"types": TYPES, "reasoning": "day"}
USER = {"role": "user", "content": "hi"}


def weather(city: str) -> dict[str, Any]:
    """Weather of a city."""
    return {"degrees": 31}


LOCAL = python_function(weather)
FUNCTION = {
    "name": "weather",
    "description": LOCAL.description,
    "parameters": dict(LOCAL.parameters),
}
RESULT = json.dumps({"degrees": 31})


def asked(**more: Any) -> dict[str, Any]:
    params = {"structure": STRUCTURE, "max_text": 4}
    extension = {"strategy": "tim", "params": params, "events": True, **more.pop("extension", {})}
    return {"temperature": 1.0, "seed": 5, "workbench": extension, **more}


def remote(messages: list[Any], **more: Any) -> dict[str, Any]:
    tools = [{"type": "function", "function": FUNCTION}]
    return asked(messages=messages, tools=tools, extension={"tools": []}, **more)


def answered(endpoint: Endpoint, **more: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """All replies of one run, its calls answered; and the ids of the calls."""
    messages: list[Any] = [USER]
    replies, calls = [], []
    while True:
        replies.append(ask(endpoint, **remote(messages, **more)).json())
        said = replies[-1]["choices"][0]
        if said["finish_reason"] != "tool_calls":
            return replies, calls
        [call] = said["message"]["tool_calls"]
        assert call["function"]["name"] == "weather" and "city" in call["function"]["arguments"]
        calls.append(call["id"])
        result = {"role": "tool", "tool_call_id": call["id"], "content": RESULT}
        messages += [said["message"], result]


def ended(reply: dict[str, Any]) -> dict[str, Any]:
    event: dict[str, Any] = reply["workbench"]["events"][-1]
    assert event["type"] == "run_ended"
    return event


def test_it_is_one_inference() -> None:
    with session_of(FakeModel()) as session, served(session, tools=[LOCAL]) as endpoint:
        here = ask(endpoint, **asked()).json()
        replies, calls = answered(endpoint)
        assert len(calls) == 2 and len(set(calls)) == 2 and len(session.engine.requests) == 2
        said = [reply["choices"][0]["message"] for reply in replies]
        text = "".join(message.get("reasoning_content", "") for message in said)
        assert text == here["choices"][0]["message"]["reasoning_content"]
        assert json.loads(text)["reasoning"][0]["subtasks"][1]["tooluse"]["tool_result"] == {
            "degrees": 31
        }
        mine, other = ended(replies[-1])["tokens"], ended(here)["tokens"]
        # what the other run left in the prefix cache is reused, all else is computed once
        assert mine["computed"] + mine["reused"] == other["computed"] + other["reused"]
        assert sum(r["usage"]["completion_tokens"] for r in replies) == mine["sampled"]
        assert here["usage"]["prompt_tokens"] == sum(r["usage"]["prompt_tokens"] for r in replies)
        session.engine.audit()


def test_streamed_and_with_the_openai_shape() -> None:
    with session_of(FakeModel()) as session, served(session) as endpoint:
        first = chunks(endpoint, **remote([USER]))
        deltas = [c["delta"] for chunk in first for c in chunk["choices"]]
        [call] = [d["tool_calls"][0] for d in deltas if "tool_calls" in d]
        assert first[-1]["choices"][0]["finish_reason"] == "tool_calls"
        message = {"role": "assistant", "content": "", "tool_calls": [call]}
        result = {"role": "tool", "tool_call_id": call["id"], "content": "31 degrees"}
        second = chunks(endpoint, **remote([USER, message, result]))
        assert second[0]["choices"][0]["delta"]["role"] == "assistant"
        text = "".join(
            c["delta"].get("reasoning_content", "") for k in second for c in k["choices"]
        )
        assert text.startswith('"31 degrees"'), "what is no JSON is a string of it"


def wait_until_idle(session: Session) -> None:
    end = time.monotonic() + 20
    while session.runs:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_call_that_nobody_answers_frees_its_pages() -> None:
    with session_of(FakeModel()) as session, served(session, patience=0.3) as endpoint:
        reply = ask(endpoint, **remote([USER])).json()
        said = reply["choices"][0]["message"]
        assert session.engine.memory.pages.held > 0
        wait_until_idle(session)
        late = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": RESULT}
        refused = ask(endpoint, **remote([USER, said, late]))
        assert refused.status_code == 400
        assert "waited too long" in refused.json()["error"]["message"]
        assert session.engine.requests[0].finish is Finish.CANCELLED
        assert session.engine.memory.pages.held == 0


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"tool_choice": "required"}, "chooses itself"),
        ({"workbench": asked()["workbench"]}, "has that name too"),
    ],
)
def test_what_cannot_be(more: dict[str, Any], reason: str) -> None:
    with session_of(FakeModel()) as session, served(session, tools=[LOCAL]) as endpoint:
        refused = ask(endpoint, **{**remote([USER]), **more})
        assert refused.status_code == 400 and reason in refused.json()["error"]["message"]
