"""`workbench serve`: one line when ready, a token where others can reach it, refusals."""

import json
import signal
import socket
import subprocess
import sys
from typing import Any
from urllib.request import Request, urlopen

import pytest

from workbench.cli.main import main
from workbench.cli.serve import loopback


def test_the_web_app_is_not_there_yet(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "does not have it yet" in said.err and "--api" in said.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--port", "70000"], "0 to 65535"),
        (["--parallel", "0"], "at least 1"),
        (["--queue", "-1"], "at least 0"),
        (["--tools", "rm"], "is not known"),
    ],
)
def test_bad_arguments(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--api", *arguments]) == 1
    said = capsys.readouterr()
    assert said.out == "" and reason in said.err and said.err.count("\n") == 1


def test_loopback() -> None:
    assert [loopback(h) for h in ("127.0.0.1", "::1", "localhost")] == [True] * 3
    assert [loopback(h) for h in ("0.0.0.0", "::", "10.1.2.3", "host")] == [False] * 4


def fetched(url: str, token: str) -> dict[str, Any]:
    request = Request(f"{url}/models", headers={"Authorization": f"Bearer {token}"})
    with urlopen(request, timeout=30) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


@pytest.mark.model
def test_a_server_in_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "workbench.cli.main", "serve", "--api", "--json"]
    server = subprocess.Popen(
        [*command, "--host", "0.0.0.0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None and server.stderr is not None
        line = json.loads(server.stdout.readline())
        url = line["url"].replace("0.0.0.0", "127.0.0.1")
        assert fetched(url, line["token"])["data"][0]["id"] == "smollm2-135m-instruct"
        port = url.split(":")[2].split("/")[0]
        assert main(["serve", "--api", "--host", "0.0.0.0", "--port", port]) == 1
        assert "choose another with --host and --port" in capsys.readouterr().err
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        assert server.stdout.read() == ""  # one JSON line and nothing else
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(port))) != 0
    finally:
        server.kill()
        server.wait()
        for pipe in (server.stdout, server.stderr):
            if pipe is not None:
                pipe.close()
