"""The endpoint over a tiny net: every field does what it says, streamed or whole."""

import json
import math
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.unit.api.serving import Scripted, SlowModel, ask, body, chunks, served, session_of
from tests.unit.session.fake_model import FakeModel
from workbench.api.serve import Endpoint
from workbench.tools import Lookup

COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "n": {"type": "integer", "maximum": 99}},
    "required": ["colour", "n"],
    "additionalProperties": False,
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "c", "schema": COLOUR}}
TREE = {"params": {"max_depth": 3, "max_text": 4, "max_tokens": 900}}


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": COLOUR}}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with session_of(FakeModel()) as session, served(session, tools=[Lookup({"a": 1})]) as there:
        yield there
        session.engine.audit()


def content(reply: dict[str, Any], index: int = 0) -> str:
    text: str = reply["choices"][index]["message"]["content"]
    return text


def test_models_and_health(endpoint: Endpoint) -> None:
    listed = httpx.get(f"{endpoint.url}/models").json()["data"]
    assert listed[0]["id"] == "fake"
    assert "fake/tim" in {model["id"] for model in listed}
    assert httpx.get(f"{endpoint.url}/models/fake/tim").json()["id"] == "fake/tim"
    assert httpx.get(f"{endpoint.url}/models/no").status_code == 404
    assert httpx.get(endpoint.url.removesuffix("v1") + "health").json()["ok"]


def test_a_reply_and_its_usage(endpoint: Endpoint) -> None:
    reply = ask(endpoint, max_tokens=12, temperature=0).json()
    assert reply["object"] == "chat.completion" and reply["choices"][0]["finish_reason"] == "length"
    usage = reply["usage"]
    assert usage["prompt_tokens"] == len("user:hi\n") and usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12


def test_a_stream_says_what_the_whole_reply_says(endpoint: Endpoint) -> None:
    asked = {"max_tokens": 40, "seed": 3, "n": 3, "logprobs": True, "top_logprobs": 4}
    whole = ask(endpoint, **asked).json()
    told = chunks(endpoint, stream_options={"include_usage": True}, **asked)
    assert told[-1]["choices"] == [] and told[-1]["usage"] == whole["usage"]
    for choice in whole["choices"]:
        mine = [c for chunk in told[:-1] for c in chunk["choices"] if c["index"] == choice["index"]]
        assert mine[0]["delta"]["role"] == "assistant"
        text = "".join(c["delta"].get("content", "") for c in mine)
        assert text == choice["message"]["content"]
        ends = [c["finish_reason"] for c in mine if c["finish_reason"]]
        assert ends == [choice["finish_reason"]]
        tokens = [t for c in mine if c["logprobs"] for t in c["logprobs"]["content"]]
        assert tokens == choice["logprobs"]["content"]
    assert all(chunk["usage"] is None for chunk in told[:-1])


def test_choices_differ_and_a_seed_repeats_them(endpoint: Endpoint) -> None:
    asked = {"max_tokens": 30, "n": 4, "temperature": 1.0, "seed": 11}
    first, second = ask(endpoint, **asked).json(), ask(endpoint, **asked).json()
    texts = [content(first, i) for i in range(4)]
    assert texts == [content(second, i) for i in range(4)] and len(set(texts)) == 4
    other = ask(endpoint, **{**asked, "seed": 12}).json()
    assert [content(other, i) for i in range(4)] != texts


def test_logprobs_are_of_the_tokens_said(endpoint: Endpoint) -> None:
    reply = ask(endpoint, max_tokens=20, temperature=0, logprobs=True, top_logprobs=20).json()
    tokens = reply["choices"][0]["logprobs"]["content"]
    raw = bytes(byte for token in tokens for byte in token["bytes"])
    assert raw.decode("utf-8", "replace") == content(reply)
    for token in tokens:
        top = token["top_logprobs"]
        assert len(top) == 20 and top[0]["logprob"] == token["logprob"]  # greedy takes the best
        assert [t["logprob"] for t in top] == sorted((t["logprob"] for t in top), reverse=True)
        assert sum(math.exp(t["logprob"]) for t in top) <= 1 + 1e-6


def test_a_schema_holds_the_text(endpoint: Endpoint) -> None:
    for seed in range(6):
        reply = ask(endpoint, temperature=1.5, seed=seed, response_format=SCHEMA).json()
        found = json.loads(content(reply))
        assert set(found) == {"colour", "n"} and found["colour"] in ("red", "blue")
        assert reply["choices"][0]["finish_reason"] == "stop"
    loose = ask(endpoint, max_tokens=400, response_format={"type": "json_object"}, seed=1).json()
    if loose["choices"][0]["finish_reason"] == "stop":
        assert isinstance(json.loads(content(loose)), dict)


def test_a_schema_that_is_none_is_refused(endpoint: Endpoint) -> None:
    bad = {"type": "json_schema", "json_schema": {"name": "c", "schema": {"type": "objekt"}}}
    reply = ask(endpoint, response_format=bad)
    assert reply.status_code == 400 and "JSON schema at #" in reply.json()["error"]["message"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "g"}}])
def test_a_forced_call_is_always_whole(endpoint: Endpoint, choice: Any) -> None:
    for seed in range(4):
        asked = {"tools": [tool("f"), tool("g")], "tool_choice": choice, "temperature": 1.3}
        reply = ask(endpoint, seed=seed, parallel_tool_calls=False, **asked).json()
        said = reply["choices"][0]
        assert said["finish_reason"] == "tool_calls" and said["message"]["content"] is None
        [call] = said["message"]["tool_calls"]
        assert call["function"]["name"] in ("g",) if choice != "required" else ("f", "g")
        assert set(json.loads(call["function"]["arguments"])) == {"colour", "n"}


def test_unserved_fields_and_models(endpoint: Endpoint) -> None:
    missing = ask(endpoint, model="gpt-9")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"
    long = [{"role": "user", "content": "x" * 5000}]
    refused = ask(endpoint, messages=long)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert ask(endpoint, messages=long, stream=True).status_code == 400
    url = f"{endpoint.url}/chat/completions"
    assert httpx.post(url, content=b"{", headers={"content-type": "text/plain"}).status_code == 415
    half = json.dumps(body(stop="\ud800")).encode()
    for raw in (b"{", b"\xff", b'{"n": NaN}', b"[" * 100_000, half, b""):
        wrong = httpx.post(url, content=raw, headers={"content-type": "application/json"})
        assert wrong.status_code == 400 and "no JSON" in wrong.json()["error"]["message"]
    great = b'"' + b"x" * (9 << 20) + b'"'
    wrong = httpx.post(url, content=great, headers={"content-type": "application/json"})
    assert wrong.status_code == 413
    assert httpx.get(url).status_code == 405 and "error" in httpx.get(url).json()
    assert httpx.get(f"{endpoint.url}/nothing").json()["error"]["type"] == "invalid_request_error"


def test_a_tree_is_told_as_it_grows(endpoint: Endpoint) -> None:
    asked = {"temperature": 1.0, "seed": 6, "model": "fake/tim"}
    told = chunks(endpoint, workbench={**TREE, "events": True, "tools": []}, **asked)
    events = [chunk["workbench"] for chunk in told if "workbench" in chunk]
    kinds = [event["type"] for event in events]
    assert kinds.count("node_opened") == kinds.count("node_closed") > 1
    assert "pruned" in kinds and kinds[-1] == "run_ended"
    deltas = [c["delta"] for chunk in told for c in chunk["choices"]]
    tree = json.loads("".join(d.get("reasoning_content", "") for d in deltas))
    assert "".join(d.get("content", "") for d in deltas) == tree["answer"]

    def count(tasks: list[Any]) -> int:
        return sum(1 + count(task.get("subtasks", [])) for task in tasks)

    assert kinds.count("node_opened") == 1 + count(tree["reasoning"])
    assert events[-1]["kv"]["pruned_tokens"] == sum(e.get("removed", 0) for e in events)
    whole = ask(endpoint, workbench={**TREE, "events": True, "tools": []}, **asked).json()
    assert [e["type"] for e in whole["workbench"]["events"]] == kinds
    quiet = ask(endpoint, workbench={**TREE, "tools": []}, **asked).json()
    assert "workbench" not in quiet and content(quiet) == tree["answer"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"workbench": {"strategy": "tum"}}, "did you mean tim"),
        ({"workbench": {"strategy": "tim", "params": {"treshold": 1}}}, "threshold"),
        ({"workbench": {"strategy": "tim", "tools": ["rm"]}}, "is not offered; lookup"),
        ({"workbench": {"strategy": "tim", "budget": {"time": 1}}}, "budget 'time'"),
        ({"workbench": {"params": {"a": 1}}}, "belong to a strategy"),
        ({"model": "fake/tim", "n": 2}, "one answer"),
        ({"model": "fake/tim", "workbench": {"strategy": "vote"}}, "leave one"),
        ({"logit_bias": {"999": 1}}, "below 257"),
    ],
)
def test_a_strategy_that_cannot_be_is_refused(
    endpoint: Endpoint, more: dict[str, Any], reason: str
) -> None:
    reply = ask(endpoint, **more)
    assert reply.status_code == 400 and reason in reply.json()["error"]["message"]


def test_a_structure_is_declared_in_the_body(endpoint: Endpoint) -> None:
    types = [{"name": "look", "tools": ["lookup"], "must_call": True}, {"name": "sum up"}]
    params = {"structure": {"types": types, "reasoning": {"sequence": ["look", "sum-up"]}}}
    wrong = ask(endpoint, model="fake/tim", workbench={"params": params})
    assert wrong.status_code == 400 and "letters, digits" in wrong.json()["error"]["message"]
    types[1]["name"] = "sum-up"
    missing = ask(endpoint, model="fake/tim", workbench={"params": params, "tools": []})
    assert missing.status_code == 400 and "names the tool" in missing.json()["error"]["message"]
    asked = {"params": {**params, "max_text": 3}}
    reply = ask(endpoint, model="fake/tim", workbench=asked, temperature=1.2).json()
    tree = json.loads(reply["choices"][0]["message"]["reasoning_content"])
    assert ["tooluse" in task for task in tree["reasoning"]] == [True, False]


def test_a_budget_cuts(endpoint: Endpoint) -> None:
    asked = {"strategy": "tim", "budget": {"sampled": 20}, "tools": []}
    reply = ask(endpoint, workbench=asked, temperature=1.0).json()
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 20


CALLS = '<tool_call>\n{"name":"f","arguments":{"colour":"red","n":3}}\n</tool_call>'


def test_a_model_that_chooses_calls_by_itself() -> None:
    script = {"user:hi\n": f"Let me look.\n{CALLS}\n{CALLS.replace('red', 'blue')}<end>"}
    asked = {"tools": [tool("f")], "temperature": 0}
    with session_of(Scripted(script)) as session, served(session) as endpoint:
        reply = ask(endpoint, **asked).json()
        said = reply["choices"][0]
        assert said["message"]["content"] == "Let me look.\n"
        arguments = [json.loads(c["function"]["arguments"]) for c in said["message"]["tool_calls"]]
        assert arguments == [{"colour": "red", "n": 3}, {"colour": "blue", "n": 3}]
        assert said["finish_reason"] == "tool_calls"
        # told not to: the same text is text
        assert "<tool_call>" in content(ask(endpoint, tool_choice="none", **asked).json())


def test_stop_texts_are_left_out() -> None:
    script = {"user:hi\n": "one two three<end>"}
    with session_of(Scripted(script)) as session, served(session) as endpoint:
        asked = {"temperature": 0, "logprobs": True}
        cut = ask(endpoint, stop=["wo t", "ee"], **asked).json()
        assert content(cut) == "one t" and cut["choices"][0]["finish_reason"] == "stop"
        assert len(cut["choices"][0]["logprobs"]["content"]) == len("one t")
        assert content(ask(endpoint, stop="zzz", **asked).json()) == "one two three"


def test_a_token_is_asked_for() -> None:
    with session_of(FakeModel()) as session, served(session, token="letmein") as endpoint:
        assert ask(endpoint).status_code == 401
        wrong = httpx.get(f"{endpoint.url}/models", headers={"Authorization": "Bearer no"})
        assert wrong.status_code == 401 and wrong.json()["error"]["code"] == "invalid_api_key"
        right = httpx.get(f"{endpoint.url}/models", headers={"Authorization": "Bearer letmein"})
        assert right.status_code == 200


def test_many_clients_share_the_batch_and_the_queue_is_bounded() -> None:
    """Twelve clients over four places: all are served, four at a time in one batch; who comes when
    the queue is full is told so."""
    slow = session_of(SlowModel(0.005), max_rows=4)
    with slow as session, served(session, parallel=4, queue=8) as endpoint:
        alone = content(ask(endpoint, max_tokens=20, seed=0, temperature=1).json())
        before, texts = session.engine.now, {}

        def client(seed: int) -> None:
            reply = ask(endpoint, max_tokens=20, seed=seed, temperature=1)
            texts[seed] = content(reply.json())

        threads = [threading.Thread(target=client, args=(i,)) for i in range(12)]
        for thread in threads:
            thread.start()
        health = endpoint.url.removesuffix("v1") + "health"
        while (state := httpx.get(health).json())["running"] + state["waiting"] < 12:
            assert any(thread.is_alive() for thread in threads)
        full = ask(endpoint, max_tokens=1)
        assert full.status_code == 429 and full.json()["error"]["type"] == "rate_limit_error"
        for thread in threads:
            thread.join()
        assert len(texts) == 12 and texts[0] == alone  # neighbours change nothing
        assert session.engine.now - before < 12 * 21 / 2  # batched: not one after the other


def test_a_run_that_fails_is_told_in_the_stream_or_before_it() -> None:
    class Broken(FakeModel):
        calls = 0

        def __call__(self, *args: Any, **more: Any) -> Any:
            self.calls += 1
            if self.calls > 5:
                raise RuntimeError("no power")
            return super().__call__(*args, **more)

    with session_of(Broken()) as session, served(session) as endpoint:
        reply = httpx.post(
            f"{endpoint.url}/chat/completions", json=body(stream=True, max_tokens=50), timeout=60
        )
        assert "no power" in reply.text and '"server_error"' in reply.text
        whole = ask(endpoint, max_tokens=50)
        assert whole.status_code == 500 and "no power" in whole.json()["error"]["message"]
