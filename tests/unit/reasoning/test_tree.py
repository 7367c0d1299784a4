"""The tracker reads any text as `json` does; spans, colours, titles, grafts."""

import itertools
import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from workbench.events import Event, FieldSpanned, ListSpanned, NodeClosed, NodeOpened, NodeTitled
from workbench.reasoning.answers import extract_answer
from workbench.reasoning.segments import StepTracker
from workbench.reasoning.tracker import TreeTextError, TreeTracker
from workbench.reasoning.tree import Palette, Tree
from workbench.words import Field, NodeId, NodeKind, RequestId, SeqId, Step


class Grown:
    """A tree over a list of tokens, all resident unless said otherwise."""

    def __init__(self) -> None:
        self.told: list[Event] = []
        self.resident: Sequence[int] = range(0)
        ids = itertools.count()
        self.tree = Tree(
            RequestId(0),
            emit=self.told.append,
            step=lambda: Step(0),
            new_id=lambda: NodeId(next(ids)),
            resident=lambda seq: self.resident,
        )
        self.root = self.tree.open(None, NodeKind.ROOT, SeqId(0), 0)
        self.tracker = TreeTracker(self.tree, self.root, SeqId(0))

    def push(self, tokens: Sequence[bytes]) -> list[Any]:
        out = []
        for index, token in enumerate(tokens):
            self.resident = range(index)
            out.append(self.tracker.push(index, token))
        return out

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]


def pieces(text: bytes, rng: random.Random) -> list[bytes]:
    """The text cut at random: tokens may straddle anything."""
    cuts = sorted(rng.sample(range(1, len(text)), min(len(text) - 1, rng.randint(1, len(text)))))
    return [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]


def random_tree(rng: random.Random, depth: int) -> dict[str, Any]:
    words = ["", "a", "é “x”", 'q"uote\\', "[1]{}", "\n\t", "日本"]
    task: dict[str, Any] = {"thought": rng.choice(words)}
    if rng.random() < 0.4:
        values: list[Any] = [1, -2.5, None, True, "s}", [], {}, {"a": ["]", {"b": 1}]}]
        task["tooluse"] = {
            "tool_name": rng.choice(["t", "look up"]),
            "parameters": {"k": rng.choice(values)},
            "tool_result": rng.choice(values),
        }
    if depth and rng.random() < 0.6:
        task["subtasks"] = [random_tree(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    task["conclusion"] = rng.choice(words)
    return task


@pytest.mark.parametrize("seed", range(20))
def test_the_tree_equals_the_parsed_text(seed: int) -> None:
    rng = random.Random(seed)
    value: dict[str, Any] = {"reasoning": [random_tree(rng, 3) for _ in range(rng.randint(1, 4))]}
    value["answer"] = rng.choice(["x", "", 'a"b'])
    separators = rng.choice([(",", ":"), (", ", ": "), (" ,\n", " : ")])
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, separators=separators).encode()
    grown = Grown()
    tokens = pieces(text, rng)
    progress = grown.push(tokens)
    assert grown.tracker.done and progress[-1].done
    assert grown.tracker.value == value == json.loads(text)
    assert grown.tracker.answer == value["answer"]
    opened, closed = grown.of(NodeOpened), grown.of(NodeClosed)
    assert len(opened) == len(closed) == len(grown.tree.nodes)
    for event in grown.of(FieldSpanned):
        inside = b"".join(tokens[event.start : event.stop])
        node = grown.tree.nodes[event.node]
        if event.field is Field.CONCLUSION and node.parent is not None:
            written = json.dumps(node.conclusion, ensure_ascii=b"\\u" in text)[1:-1].encode()
            assert written in inside
    for event in grown.of(ListSpanned):
        node = grown.tree.nodes[event.node]
        for child in node.children:
            assert event.start - 1 <= child.first and child.last <= event.stop + 1
    parents = {e.node: e.parent for e in opened}
    for node in grown.tree.nodes.values():
        assert parents[node.id] == (node.parent.id if node.parent else None)


def test_fields_titles_and_lists() -> None:
    tokens = [
        b'{"', b"reasoning", b'":', b"[", b'{"', b"thought", b'":"', b"go", b" on", b'","',
        b"tooluse", b'":', b'{"', b"tool_name", b'":"', b"look", b'","', b"parameters", b'":',
        b'{"', b"k", b'":"', b"v", b'"}', b',"', b"tool_result", b'":', b'{"a":', b"1}", b"}",
        b',"', b"subtasks", b'":', b"[", b'{"', b"thought", b'":"', b"x", b'","', b"conclusion",
        b'":"', b"y", b'"}', b"]", b',"', b"conclusion", b'":"', b"z", b'"}', b"]", b',"',
        b"answer", b'":"', b"A", b'"}',
    ]  # fmt: skip
    grown = Grown()
    progress = grown.push(tokens)
    wants = [i for i, p in enumerate(progress) if p.wants_result is not None]
    assert [tokens[i] for i in wants] == [b'":'] and wants == [26]
    spans = {(e.node, e.field, e.start, e.stop) for e in grown.of(FieldSpanned)}
    one, two = grown.tree.nodes[NodeId(1)], grown.tree.nodes[NodeId(2)]
    assert spans == {
        (1, Field.THOUGHT, 7, 9), (1, Field.CALL, 15, 16), (1, Field.CALL, 19, 24),
        (1, Field.RESULT, 27, 29), (2, Field.THOUGHT, 37, 38), (2, Field.CONCLUSION, 41, 42),
        (1, Field.CONCLUSION, 47, 48), (0, Field.ANSWER, 53, 54),
    }  # fmt: skip
    assert one.span == (34, 43) and (one.path, two.path) == ("1", "1.1")
    assert [e.title for e in grown.of(NodeTitled)] == ["go on", "x"]
    assert (two.first, two.last, one.first, one.last) == (34, 43, 4, 49)
    assert one.unpinned() == [(34, 43)]
    two.pinned = True
    assert one.unpinned() == []
    two.pinned, one.pinned = False, True
    assert one.unpinned() == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[", "{ is wanted"),
        ('{"reasoning":[1', "a task"),
        ('{"reasoning":[{"thought":"a"}]]', "or }"),
        ('{"reasoning":[{"thought":}', "a value of 'thought'"),
        ('{"reasoning":[{"thought":tru,', "JSON is wanted for 'thought'"),
        ('{"reasoning":[],"answer":"a"}}', "nothing more"),
        ('{"reasoning" "', ": is wanted"),
    ],
)
def test_malformed_text_is_refused_where_it_breaks(text: str, wanted: str) -> None:
    grown = Grown()
    with pytest.raises(TreeTextError, match=wanted):
        grown.push([bytes([b]) for b in text.encode()])


def test_colours_skip_holders_that_still_fill_memory() -> None:
    palette = Palette()
    assert palette.next({0: 10}) == (1, 0)
    assert palette.next({0: 10, 1: 50}) == (2, 0)
    given = [palette.next({0: 10, 1: 50})[0] for _ in range(10)]
    assert given == list(range(3, 13))
    assert palette.next({0: 10, 1: 50}) == (2, 1)  # 1 still fills memory
    assert palette.next({0: 95, 3: 5}) == (3, 1)  # 5 % is not more than 5 %
    full = dict.fromkeys(range(1, 13), 10)
    assert palette.next(full) == (4, 1)  # all hold much: the next in turn


def test_a_fork_is_grafted() -> None:
    task = '{"thought":"%s","conclusion":"c"}'
    head = f'{{"reasoning":[{task % "a"},{{"thought":"b","subtasks":[{task % "d"},'
    grown = Grown()
    tokens = [bytes([b]) for b in head.encode()]
    grown.push(tokens)
    known = set(grown.tree.nodes)
    tracker = TreeTracker.replayed(grown.tree, SeqId(1))
    before = len(grown.told)
    for index, token in enumerate(tokens):
        tracker.push(index, token)
    assert len(grown.told) == before  # what they share is not told again
    tracker.graft(grown.tree, SeqId(0), len(tokens))
    news = [e for e in grown.told[before:] if isinstance(e, NodeOpened)]
    assert [(e.kind, e.path, e.index) for e in news] == [
        (NodeKind.BRANCH, "", head.index('{"thought":"b"')),
        (NodeKind.TASK, "2", head.index('{"thought":"b"')),
    ]
    assert not known & {e.node for e in news} and news[0].parent == grown.root.id
    for index, byte in enumerate((task % "e" + '],"conclusion":"f"}').encode(), len(tokens)):
        tracker.push(index, bytes([byte]))
    last = grown.of(NodeOpened)[-1]
    assert (last.path, last.seq, last.parent) == ("2.2", 1, news[1].node)
    grown.tree.close_all(len(tokens), SeqId(0))
    assert all(
        n.open is (n.seq == 1 and n.kind is NodeKind.BRANCH) for n in grown.tree.nodes.values()
    )


def test_steps_end_at_blank_lines() -> None:
    grown = Grown()
    steps = StepTracker(grown.tree, grown.root, SeqId(0))
    tokens = [b"First", b" line", b".\n", b"\n", b"\n", b"Second", b"\n", b"more\n\n", b"Third"]
    for index, token in enumerate(tokens):
        steps.push(index, token)
    assert steps.end(len(tokens)) == b"".join(tokens).decode()
    spans = [(n.first, n.last, n.title, n.conclusion) for n in list(grown.tree.nodes.values())[1:]]
    assert spans == [
        (0, 4, "First line.", "First line."),
        (5, 8, "Second", "more"),
        (8, 9, "Third", "Third"),
    ]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 3 + 4 = 7\nAnswer: 7.", "7"),
        ("Answer: 1\nwait\nanswer: 12,000 apples", "12000"),
        ("thus \\boxed{x^2} and 4", "x^2"),
        ("first 3 then -4.5", "-4.5"),
        ("no number\nat all", "at all"),
        ("The answer is **Paris**", "Paris"),
        ("", ""),
    ],
)
def test_answers(text: str, answer: str) -> None:
    assert extract_answer(text) == answer
