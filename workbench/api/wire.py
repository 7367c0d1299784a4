"""A reply as OpenAI's clients read it: whole, or as chunks of server-sent events."""

import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from workbench.api.replies import Delta, Usage

DONE = b"data: [DONE]\n\n"


def sse(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return b"data: " + text.encode("utf-8", "replace") + b"\n\n"


@dataclass(slots=True)
class Envelope:
    """What all objects of one reply have in common."""

    model: str
    fingerprint: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def chunk(self, delta: Delta, include_usage: bool) -> dict[str, Any]:
        logprobs = {"content": delta.logprobs, "refusal": None} if delta.logprobs else None
        choice = {
            "index": delta.index,
            "delta": delta.delta,
            "logprobs": logprobs,
            "finish_reason": delta.finish,
        }
        chunk = self.head("chat.completion.chunk") | {"choices": [choice]}
        if include_usage:
            chunk["usage"] = None
        if delta.event is not None:
            chunk["workbench"] = delta.event
        return chunk

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        return self.head("chat.completion.chunk") | {"choices": [], "usage": usage.json}

    def whole(self, deltas: Iterable[Delta], usage: Usage, logprobs: bool) -> dict[str, Any]:
        """The reply in one object; tree events as a list in `workbench.events`."""
        choices: dict[int, dict[str, Any]] = {}
        events = []
        for delta in deltas:
            if delta.event is not None:
                events.append(delta.event)
            choice = choices.setdefault(delta.index, _choice(delta.index, logprobs))
            _add(choice, delta)
        for choice in choices.values():
            message = choice["message"]
            if message.get("tool_calls") and not message["content"]:
                message["content"] = None
        reply = self.head("chat.completion") | {
            "choices": [choices[index] for index in sorted(choices)],
            "usage": usage.json,
        }
        return reply | ({"workbench": {"events": events}} if events else {})


def _choice(index: int, logprobs: bool) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": "", "refusal": None},
        "logprobs": {"content": [], "refusal": None} if logprobs else None,
        "finish_reason": None,
    }


def _add(choice: dict[str, Any], delta: Delta) -> None:
    message = choice["message"]
    for key in ("content", "reasoning_content"):
        if key in delta.delta:
            message[key] = message.get(key, "") + delta.delta[key]
    for call in delta.delta.get("tool_calls", ()):
        message.setdefault("tool_calls", []).append({k: v for k, v in call.items() if k != "index"})
    if delta.logprobs and choice["logprobs"] is not None:
        choice["logprobs"]["content"] += delta.logprobs
    choice["finish_reason"] = delta.finish or choice["finish_reason"]
