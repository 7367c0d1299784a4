"""Tools: schemas, failures as results, and what the sandbox holds a program to."""

import asyncio
import json
import math
import time
from pathlib import Path
from typing import Any, Literal

import pytest

from workbench.tools import (
    Calculator,
    Faulty,
    Lookup,
    Outcome,
    Python,
    Search,
    ToolError,
    invoke,
    python_function,
    toolbox,
)
from workbench.tools.calculator import evaluate
from workbench.tools.sandbox import guarantees


def call(tool: Any, arguments: Any, **limits: Any) -> Outcome:
    return asyncio.run(invoke(tool, arguments, **limits))


def error(outcome: Outcome) -> str:
    assert not outcome.ok
    return str(json.loads(outcome.text)["error"])


def greet(name: str, times: int = 1, tone: Literal["loud", "soft"] = "soft") -> list[str]:
    """Say hello.

    More that is not the description.
    """
    return [f"hello {name}"] * times


def test_a_typed_function_becomes_a_tool() -> None:
    tool = python_function(greet)
    assert (tool.name, tool.description) == ("greet", "Say hello.")
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "times": {"type": "integer"},
            "tone": {"enum": ["loud", "soft"]},
        },
        "required": ["name"],
        "additionalProperties": False,
    }
    assert call(tool, {"name": "a", "times": 2}).text == '["hello a","hello a"]'

    def untyped(x):  # type: ignore[no-untyped-def]
        return x

    def starred(*x: int) -> int:
        return 0

    for bad in (untyped, starred):
        with pytest.raises(TypeError, match="parameter"):
            python_function(bad)


def raises(x: str) -> str:
    raise KeyError(x)


def hangs(x: str) -> str:
    time.sleep(20)
    return x


def not_json(x: str) -> object:
    return object() if x == "object" else math.nan


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        (raises, {"x": "k"}, "KeyError"),
        (hangs, {"x": "k"}, "no answer within 0.2 s"),
        (not_json, {"x": "object"}, "no JSON"),
        (not_json, {"x": "nan"}, "no JSON"),
        (greet, {"name": "n", "times": 900}, "at most 4000"),
        (greet, {}, "'name' is missing"),
        (greet, {"name": "a", "nome": 1}, "'nome' is not known"),
        (greet, {"name": 3}, "string is wanted, 3 came"),
        (greet, {"name": "a", "times": True}, "integer is wanted"),
        (greet, [1], "an object of parameters"),
    ],
)
def test_what_goes_wrong_is_a_result(function: Any, arguments: Any, said: str) -> None:
    start = time.monotonic()
    assert said in error(call(python_function(function), arguments, timeout=0.2))
    assert time.monotonic() - start < 5


def test_no_tool_of_that_name() -> None:
    assert "no tool" in error(call(None, {}))


@pytest.mark.parametrize(
    ("text", "value"),
    [("2*(3+4)", 14), ("-2**2", -4), ("7//2 + 7%2", 4), ("sqrt(16)/2", 2.0), ("max(1, 2, 3)", 3)],
)
def test_the_calculator(text: str, value: float) -> None:
    assert json.loads(call(Calculator(), {"expression": text}).text) == {"value": value}


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "().__class__",
        "9**9**9",
        "1/0",
        "2 +",
        "x",
        "True",
        "(-8)**0.5",
        "1e308*10",
        "'a'*9",
        "(" * 300 + "1" + ")" * 300,
        "1" * 500,
    ],
)
def test_the_calculator_refuses(text: str) -> None:
    start = time.monotonic()
    with pytest.raises(ToolError):
        evaluate(text, max_chars=1000 if text[0] == "(" else 400)
    assert time.monotonic() - start < 1


def test_lookup() -> None:
    tool = Lookup({"a": {"next": "b"}}, "line", "n")
    assert call(tool, {"n": "a"}).text == '{"next":"b"}'
    assert "nothing under 'z'" in error(call(tool, {"n": "z"}))


def test_search_ranks_as_the_formula_says(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("red fish blue fish\n\none fish")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.md").write_text("blue birds sing loudly in the morning")
    (tmp_path / "c.bin").write_text("fish fish fish")
    tool = Search(tmp_path)
    ranked = tool.rank("blue fish")
    # by hand: 3 passages of 4, 2 and 7 words; blue in 2 of them, fish in 2
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    mean = 13 / 3

    def term(count: int, length: int) -> float:
        return idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / mean))

    wanted = sorted([term(1, 4) + term(2, 4), term(1, 2), term(1, 7)], reverse=True)
    assert [score for score, _ in ranked] == pytest.approx(wanted)
    found = json.loads(call(tool, {"query": "birds"}).text)
    assert [hit["source"] for hit in found] == ["sub/b.md"]
    assert json.loads(call(tool, {"query": "zebra"}).text) == []
    with pytest.raises(ToolError, match="folder of texts"):
        Search(tmp_path / "nowhere")


def test_toolbox(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word")
    assert [t.name for t in toolbox(f"calculator, python,search:{tmp_path}")] == [
        "calculator",
        "python",
        "search",
    ]
    assert toolbox("") == []
    with pytest.raises(ToolError, match="'knife' is not known"):
        toolbox("knife")


# ---- the sandbox ----

SANDBOX = Python(seconds=3.0)


def test_a_program_runs() -> None:
    code = "import math, json\nopen('n.txt','w').write('x')\nprint(json.dumps([math.gcd(12, 18)]))"
    assert call(SANDBOX, {"code": code}).text == '{"output":"[6]\\n"}'
    assert "ZeroDivisionError" in error(call(SANDBOX, {"code": "1/0"}))
    assert len(guarantees()) == 5


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os\nwhile True: os.fork()", "not allowed"),
        ("import subprocess\nsubprocess.run(['true'])", "not allowed"),
        ("x = bytearray(10 << 30)", "MemoryError"),
        ("import socket\nsocket.socket()", "not allowed"),
        ("import os\nprint(os.listdir(os.path.expanduser('~')))", "not allowed"),
        ("import os\nprint(open(os.path.expanduser('~') + '/.profile').read())", "not allowed"),
        ("import ctypes", "not allowed"),
        ("open('big', 'wb').write(b'x' * (4 << 20))", "File too large"),
        ("print('x' * (4 << 20))", "File too large"),
        ("import os\nos.kill(os.getppid(), 9)", "not allowed"),
        ("import os\nos.execv('/bin/true', ['true'])", "not allowed"),
    ],
)
def test_a_program_is_held_back(code: str, said: str) -> None:
    assert said in error(call(SANDBOX, {"code": code}))


@pytest.mark.parametrize("code", ["while True: pass", "import time\ntime.sleep(60)"])
def test_an_endless_program_is_ended(code: str) -> None:
    start = time.monotonic()
    assert "killed" in error(call(Python(seconds=0.5), {"code": code}))
    assert time.monotonic() - start < 5


def test_threads_end_with_their_group() -> None:
    code = (
        "import threading, time\n"
        "for _ in range(3): threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "print('left')"
    )
    outcome = call(Python(seconds=1.0), {"code": code})
    assert not outcome.ok and outcome.seconds < 5


def test_a_faulty_tool_fails_in_its_share_and_the_same_way_for_a_seed() -> None:
    lookup = Lookup({"4821": {"next": "9"}}, name="row", parameter="id")

    def outcomes(seed: int) -> list[str]:
        tool = Faulty(lookup, 0.3, seed)
        return [call(tool, {"id": "4821"}).text for _ in range(200)]

    one = outcomes(1)
    failed = [json.loads(text)["error"] for text in one if "error" in text]
    assert outcomes(1) == one != outcomes(2)
    assert 35 <= len(failed) <= 85 and one.count('{"next":"9"}') == 200 - len(failed)
    assert any("busy" in why for why in failed) and any("nothing under" in why for why in failed)
    with pytest.raises(ToolError, match="a share from 0"):
        Faulty(lookup, 1.0)
