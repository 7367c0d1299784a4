"""Reads a Thread-2 tree out of a stream of tokens while it is being written.

An incremental JSON reader that knows the places of the tree's fields. It follows the full emitted
text and has never heard of pruning or of the grammar: at the end the tree equals `json.loads` of
the text.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from workbench.reasoning.tree import Node, Tree
from workbench.words import Field, NodeKind, SeqId

_SPACE = b" \t\r\n"
_LOOSE = json.JSONDecoder(strict=False)  # control characters may stand in a string
_FIELDS = {
    "thought": Field.THOUGHT,
    "title": Field.THOUGHT,
    "conclusion": Field.CONCLUSION,
    "answer": Field.ANSWER,
    "tool_name": Field.CALL,
    "parameters": Field.CALL,
    "tool_result": Field.RESULT,
}


class TreeTextError(ValueError):
    """The text is not a tree; says where."""


@dataclass(slots=True)
class Progress:
    """What one token brought about."""

    opened: list[Node] = field(default_factory=list)
    closed: list[Node] = field(default_factory=list)
    listed: list[Node] = field(default_factory=list)  # nodes whose subtask list was closed
    wants_result: Node | None = None  # the stream stands right behind `"tool_result":`
    done: bool = False  # the whole tree is written


INSIDE = Progress()  # of a token inside a string; nobody changes it


@dataclass(slots=True)
class _Level:
    """An object or a list that is open. `node` owns it."""

    kind: str  # "root", "task", "tool": objects; "tasks": a list
    node: Node
    values: dict[str, Any]
    items: list[Any] = field(default_factory=list)
    key: str = ""
    state: str = "first"  # object: first, key, colon, value, after; list: first, item, after
    start: int = 0  # of a list's contents


@dataclass(slots=True)
class _Value:
    """A string or a JSON value of any shape that is being read."""

    key: str
    is_string: bool
    text: bytearray = field(default_factory=bytearray)
    first: int | None = None  # tokens that hold content of it
    last: int = 0
    nesting: int = 0
    quoted: bool = False  # inside a string within it
    escaped: bool = False


class TreeTracker:
    """`push` each token of one branch in order; nodes and fields are told through the tree."""

    def __init__(self, tree: Tree, root: Node, seq: SeqId) -> None:
        self.tree, self.root, self.seq = tree, root, seq
        self.value: dict[str, Any] = {}
        self._levels: list[_Level] = []
        self._value: _Value | None = None
        self._index = 0
        self._progress = Progress()
        self._done = False

    @classmethod
    def replayed(cls, tree: Tree, seq: SeqId) -> "TreeTracker":
        """A tracker for a fork: what it shares with its parent is pushed first, then `graft`ed."""
        scratch = tree.scratch()
        return cls(scratch, scratch.open(None, NodeKind.ROOT, seq, 0), seq)

    def graft(self, tree: Tree, parent: SeqId, at: int) -> None:
        tree.graft(self.tree, self.open_nodes, self.seq, parent, at)
        self.tree = tree

    @property
    def done(self) -> bool:
        return self._done

    @property
    def innermost(self) -> Node:
        """The innermost open node."""
        return self._levels[-1].node if self._levels else self.root

    @property
    def open_nodes(self) -> list[Node]:
        """From the root down."""
        found: list[Node] = []
        for level in self._levels:
            if level.node not in found:
                found.append(level.node)
        return found or [self.root]

    @property
    def call(self) -> tuple[str, Any]:
        """Tool name and parameters of the call that waits for its result."""
        values = self._levels[-1].values
        return str(values.get("tool_name", "")), values.get("parameters", {})

    @property
    def answer(self) -> str:
        answer = self.value.get("answer", "")
        return answer if isinstance(answer, str) else json.dumps(answer, separators=(",", ":"))

    def push(self, index: int, text: bytes) -> Progress:
        """The token at stream index `index` has these bytes. Raises TreeTextError where they cannot
        stand; what was read before stays valid."""
        self._index = index
        if self._take_whole(text):
            self._progress = INSIDE
            return INSIDE
        self._progress = Progress()
        for byte in text:
            self._byte(byte)
        level = self._levels[-1] if self._levels else None
        if level and level.kind == "tool" and level.key == "tool_result" and level.state == "value":
            self._progress.wants_result = level.node if self._value is None else None
        return self._progress

    def _byte(self, byte: int) -> None:
        if self._value is not None and self._read(self._value, byte):
            return
        if byte in _SPACE:
            return
        if self._done:
            raise self._wrong("nothing more", byte)
        if not self._levels:
            self._expect(byte, b"{")
            self._levels.append(_Level("root", self.root, self.value))
        elif self._levels[-1].kind == "tasks":
            self._in_list(self._levels[-1], byte)
        else:
            self._in_object(self._levels[-1], byte)

    def _in_object(self, level: _Level, byte: int) -> None:
        char = bytes([byte])
        if level.state in ("first", "key") and char == b'"':
            self._value = _Value("", True)
        elif char == b"}" and level.state in ("first", "after"):
            self._close_object()
        elif level.state == "colon" and char == b":":
            level.state = "value"
        elif level.state == "value":
            self._begin(level, byte)
        elif level.state == "after" and char == b",":
            level.state = "key"
        else:
            raise self._wrong({"colon": ":", "after": ", or }"}.get(level.state, "a key"), byte)

    def _in_list(self, level: _Level, byte: int) -> None:
        if byte == ord("]") and level.state in ("first", "after"):
            self._levels.pop()
            above = self._levels[-1]
            above.values[above.key] = level.items
            above.state = "after"
            if level.node is not self.root:
                self.tree.set_list(level.node, level.start, max(level.start, self._index))
                self._progress.listed.append(level.node)
        elif byte == ord("{") and level.state in ("first", "item"):
            node = self.tree.open(level.node, NodeKind.TASK, self.seq, self._index)
            self._progress.opened.append(node)
            values: dict[str, Any] = {}
            level.items.append(values)
            level.state = "after"
            self._levels.append(_Level("task", node, values))
        elif byte == ord(",") and level.state == "after":
            level.state = "item"
        else:
            raise self._wrong("a task, or ]", byte)

    def _begin(self, level: _Level, byte: int) -> None:
        char = bytes([byte])
        if level.key in ("reasoning", "subtasks") and char == b"[":
            self._levels.append(_Level("tasks", level.node, {}, start=self._index + 1))
        elif level.key == "tooluse" and char == b"{":
            values: dict[str, Any] = {}
            level.values[level.key] = values
            self._levels.append(_Level("tool", level.node, values))
        elif char == b'"':
            # the quotes of a result belong to the result, since the runtime put them in
            self._value = _Value(level.key, True)
            if level.key in ("parameters", "tool_result"):
                self._value.is_string = False
                self._read(self._value, byte)
        elif char in b"}],:":
            raise self._wrong(f"a value of {level.key!r}", byte)
        else:
            self._value = _Value(level.key, False)
            self._read(self._value, byte)

    def _read(self, value: _Value, byte: int) -> bool:
        """One more byte of a value; False where the byte stands behind it."""
        if value.is_string:
            if byte == ord('"') and not value.escaped:
                self._end(value, self._parse(value))
                return True
            value.escaped = byte == ord("\\") and not value.escaped
        elif value.quoted:
            if byte == ord('"') and not value.escaped:
                value.quoted = False
            value.escaped = byte == ord("\\") and not value.escaped
        elif not value.nesting and byte in b",}] \t\r\n":
            self._end(value, self._parse(value))
            return False
        else:
            value.quoted = byte == ord('"')
            value.nesting += (byte in b"{[") - (byte in b"}]")
        self._take(value, byte)
        if not (value.is_string or value.quoted or value.nesting) and byte in b'"}]':
            self._end(value, self._parse(value))
        return True

    def _take(self, value: _Value, byte: int) -> None:
        value.text.append(byte)
        value.last = self._index
        if value.first is None:
            value.first = self._index

    def _take_whole(self, text: bytes) -> bool:
        """A token inside a string, as most are, without a look at each byte."""
        value = self._value
        if value is None or not value.is_string or value.escaped or not text:
            return False
        if b'"' in text or b"\\" in text:
            return False
        value.text += text
        value.last = self._index
        if value.first is None:
            value.first = self._index
        return True

    def _parse(self, value: _Value) -> Any:
        try:
            text = bytes(value.text).decode("utf-8")
            return _LOOSE.decode(f'"{text}"' if value.is_string else text)
        except ValueError as error:
            raise TreeTextError(
                f"token {self._index}: JSON is wanted for {value.key!r}, {bytes(value.text)!r} came"
            ) from error

    def _end(self, value: _Value, parsed: Any) -> None:
        self._value = None
        level = self._levels[-1]
        if not value.key:
            level.key, level.state = str(parsed), "colon"
            return
        level.values[value.key] = parsed
        level.state = "after"
        if value.key in _FIELDS and value.first is not None:
            self.tree.set_field(level.node, _FIELDS[value.key], value.first, value.last + 1)
        if value.key == "title" or (value.key == "thought" and not level.node.title):
            self.tree.set_title(level.node, str(parsed))
        elif value.key == "conclusion":
            level.node.conclusion = str(parsed)
        elif value.key == "answer":
            self.root.conclusion = self.answer

    def _close_object(self) -> None:
        level = self._levels.pop()
        if level.kind == "tool":
            self._levels[-1].state = "after"
        elif level.kind == "task":
            self.tree.close(level.node, self._index + 1, level.node.conclusion)
            self._progress.closed.append(level.node)
        else:
            self._done = self._progress.done = True
            self.tree.close(self.root, self._index + 1, self.root.conclusion)
            self._progress.closed.append(self.root)

    def _expect(self, byte: int, wanted: bytes) -> None:
        if bytes([byte]) != wanted:
            raise self._wrong(wanted.decode(), byte)

    def _wrong(self, wanted: str, byte: int) -> TreeTextError:
        where = self._levels[-1].node.path if self._levels else ""
        came = bytes([byte]).decode("latin-1")
        return TreeTextError(
            f"token {self._index}, node {where!r}: {wanted} is wanted, {came!r} came"
        )
