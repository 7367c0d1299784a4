"""Whatever a client sends, it gets a reply or a reason, and no page is left behind."""

import random
from collections import Counter

import httpx

from tests.unit.api.serving import served, session_of
from tests.unit.session.fake_model import FakeModel
from workbench.api.body import EXTENSION, IDLE, SERVED

PARAMETERS = {
    "type": "object",
    "properties": {"a": {"enum": [1, 2]}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}
STRUCTURE = {"types": [{"name": "a"}], "reasoning": "a"}
FIELDS = sorted((SERVED | IDLE) - {"model", "messages"})
VALUES = [
    *(
        None,
        0,
        1,
        -1,
        2.5,
        "x",
        "",
        [],
        {},
        True,
        False,
        ["a"],
        {"a": 1},
        1e308,
        10**30,
        "\0",
        [None],
    ),
    *("auto", "required", "none", {"type": "function", "function": {"name": "f"}}, [TOOL]),
    {"type": "json_object"},
    *({"type": "json_schema", "json_schema": {"schema": s}} for s in ({"enum": ["a"]}, {}, 3, [])),
    *({name: 1} for name in sorted(EXTENSION)),
    *({"strategy": name, "params": {"max_tokens": 9}} for name in ("tim", "chain", "lines", "vot")),
    *({"strategy": "tim", "params": {"structure": s}} for s in (7, "x", [], STRUCTURE)),
    {"strategy": "tim", "params": {"structure": {**STRUCTURE, "answer": 3}}},
]
USER = {"role": "user", "content": "hi"}
CALL = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
MESSAGES = [
    *(USER, {"role": "system", "content": "s"}, {"role": "user", "content": ""}, 7),
    *({"role": "assistant", "tool_calls": [CALL]}, {"role": "assistant", "content": None}),
    {"role": "tool", "tool_call_id": "x", "content": "1"},
]


def test_any_body() -> None:
    rng, seen = random.Random(0), Counter[int]()
    with session_of(FakeModel(2048)) as session, served(session, patience=0.1) as endpoint:
        with httpx.Client(timeout=60) as client:
            for _ in range(250):
                body = {
                    "model": rng.choice(["fake"] * 8 + ["fake/tim", "fake/chain", "no"]),
                    "messages": [USER] if rng.random() < 0.8 else rng.choices(MESSAGES, k=3),
                    "max_tokens": rng.randint(1, 20),
                }
                body |= {
                    name: rng.choice(VALUES) for name in rng.sample(FIELDS, rng.choice([0, 1, 2]))
                }
                reply = client.post(f"{endpoint.url}/chat/completions", json=body)
                seen[reply.status_code] += 1
                assert reply.status_code < 500 and "server_error" not in reply.text, body
                if reply.status_code >= 400:
                    assert reply.json()["error"]["message"]
        assert seen[200] > 50 and seen[400] > 50, seen
    assert session.engine.memory.pages.held == 0
    session.engine.audit()
