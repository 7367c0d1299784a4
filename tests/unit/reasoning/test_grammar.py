"""Grammars: gold streams are accepted token by token, what is illegal at a depth is not, errors
name the place."""

import json
import random

import numpy as np
import pytest

from tests.fakes import ByteTokenizer
from tests.unit.reasoning.pilot import problems
from workbench.engine.grammar import (
    GrammarError,
    Vocabulary,
    allowed,
    json_schema,
    lark,
    regex,
    unroll,
)
from workbench.engine.strings import Strings
from workbench.engine.tree_grammar import ToolShape, TreeGrammar, TreeMatcher, TreeShape

NODE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "v": {"type": "integer"},
                "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["v"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
KEY = {
    "type": "object",
    "properties": {"key": {"type": "string"}, "n": {"type": "integer"}},
    "required": ["key"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def byte_vocabulary() -> Vocabulary:
    t = ByteTokenizer()
    return Vocabulary([t.bytes_of(i) for i in range(257)], frozenset({t.end}), t.encode)


def accepts(matcher: object, ids: list[int], size: int) -> bool:
    """Whether every token is in its mask; the mask and `consume` must agree."""
    row = np.zeros((size + 31) // 32, dtype=np.int32)
    for token in ids:
        matcher.fill(row)  # type: ignore[attr-defined]
        if not allowed(row, token):
            with pytest.raises(GrammarError):
                matcher.consume(token)  # type: ignore[attr-defined]
            return False
        matcher.consume(token)  # type: ignore[attr-defined]
    return True


def tree(vocabulary: Vocabulary, **shape: object) -> TreeMatcher:
    tools = (ToolShape("look", KEY), ToolShape("lookup", KEY))
    return TreeGrammar(vocabulary, TreeShape(tools, **shape)).matcher()  # type: ignore[arg-type]


TASK = '{"thought":"a","conclusion":"b"}'
CALL = (
    '{"thought":"a","tooluse":{"tool_name":"%s","parameters":%s,"tool_result":%s},"conclusion":"b"}'
)


def whole(tasks: str) -> str:
    return f'{{"reasoning":[{tasks}],"answer":"x"}}<end>'


@pytest.mark.parametrize(
    "text",
    [
        whole(TASK),
        whole(f"{TASK},{TASK}"),
        whole(f'{{"thought":"a","subtasks":[{TASK},{TASK}],"conclusion":"b"}}'),
        whole(CALL % ("look", '{"key":"k"}', '{"any":[1,null,"x"]}')),
        whole(CALL % ("lookup", '{"key":"k","n":12}', "42")),
        whole(CALL % ("lookup", '{"key":"k"}', '"text"')),
        whole(TASK.replace('"a"', '"é \\" \\\\ \\u00e9 [x] {y}"')),
    ],
)
def test_legal_trees(byte_vocabulary: Vocabulary, text: str) -> None:
    matcher = tree(byte_vocabulary)
    assert accepts(matcher, byte_vocabulary.encode(text), 257)
    assert matcher.finished
    json.loads(text.removesuffix("<end>"))


@pytest.mark.parametrize(
    "text",
    [
        '{"answer"',  # reasoning comes first
        '{"reasoning":[]',  # at least one task
        '{"reasoning":[{"conclusion"',  # thought comes first
        '{"reasoning":[{"thought":"a","thought"',
        f'{{"reasoning":[{TASK}],"conclusion"',  # at the root only the answer
        f'{{"reasoning":[{{"thought":"a","subtasks":[{TASK}],"answer"',  # below it only conclusions
        f'{{"reasoning":[{{"thought":"a","subtasks":[{TASK}]}}',
        '{"reasoning":[{"thought":"a","subtasks":null',  # null fields are left out
        '{"reasoning": [',  # separators are compact
        whole(CALL % ("looks", "{}", "1")),
        whole(CALL % ("look", '{"n":1}', "1")),  # key is required
        whole(CALL % ("look", '{"key":1}', "1")),
        '{"reasoning":[{"thought":"\\ud83d',  # half a pair cannot be written as UTF-8
        '{"reasoning":[{"thought":"\n',
    ],
)
def test_illegal_trees(byte_vocabulary: Vocabulary, text: str) -> None:
    assert not accepts(tree(byte_vocabulary), byte_vocabulary.encode(text), 257)


def test_depth_is_bounded(byte_vocabulary: Vocabulary) -> None:
    nested = TASK
    for _ in range(2):
        nested = f'{{"thought":"a","subtasks":[{nested}],"conclusion":"b"}}'
    ids = byte_vocabulary.encode(whole(nested))
    assert accepts(tree(byte_vocabulary, max_depth=3), ids, 257)
    assert not accepts(tree(byte_vocabulary, max_depth=2), ids, 257)


def test_text_is_bounded(byte_vocabulary: Vocabulary) -> None:
    long = whole(TASK.replace('"a"', '"' + "a" * 9 + '"'))
    assert accepts(tree(byte_vocabulary, max_text=9), byte_vocabulary.encode(long), 257)
    assert not accepts(tree(byte_vocabulary, max_text=8), byte_vocabulary.encode(long), 257)


def test_random_walks_are_json(byte_vocabulary: Vocabulary) -> None:
    """Whatever is drawn under the mask parses, and every mask allows something."""
    rng = random.Random(0)
    row = np.zeros(9, dtype=np.int32)
    whole_ones = 0
    for _ in range(12):
        matcher = tree(byte_vocabulary, max_depth=3, max_text=6)
        out = bytearray()
        while not matcher.finished and len(out) < 1500:
            if matcher.wants_result:
                token_text = rng.choice([b'{"a":1}', b"[true]", b'"s"', b"7"])
                for token in token_text:
                    matcher.consume(token)
                out += token_text
                continue
            matcher.fill(row)
            choices = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist()
            assert choices and choices[-1] < 257
            if len(out) > 150 and ord("]") in choices:
                choices = [ord("]")]
            if ord('"') in choices and len(choices) > 20 and rng.random() < 0.5:
                choices = [ord('"')]
            token = rng.choice(choices)
            matcher.consume(token)
            if token != 256:
                out.append(token)
        whole_ones += matcher.finished
        if matcher.finished:
            assert set(json.loads(bytes(out))) == {"reasoning", "answer"}
    assert whole_ones > 6


def test_rollback_and_copy(byte_vocabulary: Vocabulary) -> None:
    ids = byte_vocabulary.encode(whole(CALL % ("lookup", '{"key":"k","n":12}', '{"a":[1,2]}')))
    matcher = tree(byte_vocabulary)
    rng = random.Random(1)
    rows = [np.zeros(9, dtype=np.int32) for _ in range(2)]
    at = 0
    while at < len(ids):
        matcher.consume(ids[at])
        at += 1
        if rng.random() < 0.3:
            back = rng.randint(0, min(at, 25)) if rng.random() < 0.1 else min(at, 2)
            matcher.rollback(back)
            at -= back
            fresh = tree(byte_vocabulary)
            for token in ids[:at]:
                fresh.consume(token)
            twin = matcher.copy()
            twin.fill(rows[0])
            fresh.fill(rows[1])
            assert (rows[0] == rows[1]).all()
            if at < len(ids):
                twin.consume(ids[at])  # must not move the original
    assert matcher.finished
    with pytest.raises(GrammarError, match="cannot take back"):
        matcher.rollback(10_000)


def test_masks_made_together_are_those_made_alone(
    byte_vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In threads, at every place of a tree at once."""
    monkeypatch.setattr("workbench.engine.grammar.FEW", 1)
    monkeypatch.setattr("workbench.engine.grammar.WORTH", 0.0)
    matcher = tree(byte_vocabulary)
    call = '"tooluse":{"tool_name":"lookup","parameters":{"key":"a","n":3},"tool_result":[1,2]}'
    places = [matcher.copy()]
    for token in byte_vocabulary.encode(whole('{"thought":"t",' + call + ',"conclusion":"c"}')):
        matcher.consume(token)
        places.append(matcher.copy())
    rows = np.full((len(places), byte_vocabulary.words), 7, dtype=np.int32)
    TreeMatcher.fill_many(places, list(rows))
    alone = np.zeros_like(rows)
    for place, row in zip(places, alone, strict=True):
        place.fill(row)
    assert np.array_equal(rows, alone)


def test_strings_agree_with_json(byte_vocabulary: Vocabulary) -> None:
    """The automaton against the json library and the UTF-8 codec, on random bytes."""
    strings, rng = Strings(byte_vocabulary), random.Random(2)
    alphabet = [
        *b'"\\u0dD8cafn/ ',
        0x1F,
        0x7F,
        0xC3,
        0xA9,
        0xE2,
        0x82,
        0xAC,
        0xED,
        0xA0,
        0x80,
        0xF0,
        0x9F,
    ]
    for _ in range(4000):
        text = bytes(rng.choice(alphabet) for _ in range(rng.randint(0, 9)))
        state: int | None = 0
        for byte in text:
            state = None if state is None else strings.after(state, byte)
        try:
            json.loads(b'"' + text + b'"').encode("utf-8")
            legal = b'"' not in text.replace(b'\\"', b"") or state == 0
        except (ValueError, UnicodeError):
            legal = False
        if state == 0:
            assert legal, text
        elif legal and b'"' not in text and b"\\u" not in text.lower():
            raise AssertionError(f"refused {text!r}")


def test_schema_regex_lark(byte_vocabulary: Vocabulary) -> None:
    v = byte_vocabulary
    schema = json_schema(v, KEY)
    assert accepts(schema, v.encode('{"key":"a","n":3}'), 257) and schema.finished
    assert not accepts(json_schema(v, KEY), v.encode('{"key": "a"}'), 257)
    assert accepts(regex(v, "[ab]+c"), v.encode("abac"), 257)
    assert not accepts(regex(v, "[ab]+c"), v.encode("c"), 257)
    assert accepts(lark(v, 'start: "a" start "b" | "c"'), v.encode("aacbb"), 257)
    copied = json_schema(v, KEY)
    for token in v.encode('{"key'):
        copied.consume(token)
    twin = copied.copy()
    copied.rollback(3)
    assert accepts(copied, v.encode('key":"a"}'), 257) and accepts(twin, v.encode('":"a"}'), 257)


def test_bounded_recursion(byte_vocabulary: Vocabulary) -> None:
    v = byte_vocabulary
    two = '{"v":1,"kids":[{"v":2,"kids":[]}]}'
    three = '{"v":1,"kids":[{"v":2,"kids":[{"v":3}]}]}'
    assert accepts(json_schema(v, NODE, depth=2), v.encode(two), 257)
    assert not accepts(json_schema(v, NODE, depth=2), v.encode(three), 257)
    assert accepts(json_schema(v, NODE, depth=3), v.encode(three), 257)
    assert "$ref" not in json.dumps(unroll(NODE, 4))


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "objekt"}, "#:"),
        (
            {"type": "object", "properties": {"a": {"type": "integer", "minimum": "x"}}},
            "#/properties/a",
        ),
        (
            {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "no"}]}},
            "#/items/anyOf/1",
        ),
        ({"type": "object", "properties": {"a": 3}}, "#/properties/a"),
    ],
)
def test_a_malformed_schema_names_its_place(
    byte_vocabulary: Vocabulary, schema: dict[str, object], place: str
) -> None:
    with pytest.raises(GrammarError, match="JSON schema at") as failure:
        json_schema(byte_vocabulary, schema)
    assert place in str(failure.value)
    with pytest.raises(GrammarError):
        TreeGrammar(byte_vocabulary, TreeShape((ToolShape("t", schema),)))


def test_malformed_grammars(byte_vocabulary: Vocabulary) -> None:
    with pytest.raises(GrammarError, match="regex"):
        regex(byte_vocabulary, "a(b")
    with pytest.raises(GrammarError, match="unknown name"):
        lark(byte_vocabulary, "start: foo")
    with pytest.raises(GrammarError, match="points nowhere"):
        json_schema(byte_vocabulary, {"$ref": "#/$defs/x"}, depth=2)


@pytest.mark.model
def test_gold_streams_are_allowed_token_by_token() -> None:
    """With the model's own tokenizer, every gold token of every pilot problem is in its mask."""
    from workbench.model.load import locate, open_checkpoint
    from workbench.model.tokenizer import ModelTokenizer

    path = locate("smollm2-135m-instruct").path
    t = ModelTokenizer(*open_checkpoint(path).tokenizer_files())
    v = Vocabulary([t.token_bytes(i) for i in range(t.vocab_size)], t.eos, t.encode, t.special)
    grammars: dict[str, TreeGrammar] = {}
    for problem in problems():
        tool = problem.lookup
        shape = TreeShape((ToolShape(tool.name, tool.parameters),))
        grammar = grammars.setdefault(tool.name, TreeGrammar(v, shape))
        matcher = grammar.matcher()
        row = np.zeros(v.words, dtype=np.int32)
        results = {start for start, _ in problem.tool_result_spans}
        for place, token in enumerate(problem.gold_ids):
            matcher.fill(row)
            assert allowed(row, token), (place, v.tokens[token])
            assert matcher.wants_result == (place in results)
            matcher.consume(token)
        assert matcher.finished
