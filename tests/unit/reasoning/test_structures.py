"""Declared structures: a net of random logits grows no tree but one that fits, judged by an oracle
that knows neither grammar nor automaton; and a wrong declaration is explained."""

import json
import random
import sys
from types import ModuleType
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import ByteTokenizer
from tests.unit.session.fake_model import fake_session
from workbench.engine.grammar import GrammarError, Vocabulary
from workbench.engine.tree_grammar import ToolShape
from workbench.reasoning import Tim, UnknownStrategy
from workbench.reasoning.parts import Choice, Many, One, Part, Sequence, names
from workbench.reasoning.source import source
from workbench.reasoning.structures import Structure, StructureError, TaskClass, TaskType
from workbench.session.typed import typed_grammar
from workbench.tools import Lookup
from workbench.words import Finish, Origin


class Look(TaskClass):
    """Look one fact up."""

    tools = ("lookup",)
    must_call = True


class Note(TaskClass):
    pass


class Weigh(TaskClass):
    """Two facts, then what they say."""

    subtasks: tuple[Look, Look, Note | None]


class Explore(TaskClass):
    tools = ("lookup",)
    subtasks: "list[Explore | Note] | None"


class Plan(TaskClass):
    subtasks: tuple[Annotated[list[Look], (2, 3)], list[Weigh | Note], Explore]


STRUCTURES = {
    "tuple": Structure.of(Weigh),
    "list": Structure.of(list[Note]),
    "union": Structure.of(list[Weigh | Note | Look]),
    "nested": Structure.of(Plan),
    "recursive": Structure.of(tuple[Explore, Note]),
    "answer": Structure.of(Look, {"type": "integer"}),
    "list then the same": Structure.of(tuple[list[Note], Note, Note]),
}
LOOKUP = Lookup({"a": 1})
TOOLS = (ToolShape("lookup", LOOKUP.parameters), ToolShape("other", {"type": "object"}))


# ---- the oracle: an expression is matched by trying everything ----


def ends(structure: Structure, part: Part, tasks: list[Any], at: int) -> set[int]:
    """Where `part` may end when it begins at `at`."""
    match part:
        case One(name):
            fits = at < len(tasks) and fits_type(structure, name, tasks[at])
            return {at + 1} if fits else set()
        case Sequence(parts):
            reached = {at}
            for inner in parts:
                reached = {e for place in reached for e in ends(structure, inner, tasks, place)}
            return reached
        case Choice(parts):
            return {e for inner in parts for e in ends(structure, inner, tasks, at)}
        case Many(inner, least, most):
            found, reached = ({at} if least == 0 else set()), {at}
            for count in range(1, len(tasks) - at + 1 if most is None else most + 1):
                reached = {e for place in reached for e in ends(structure, inner, tasks, place)}
                found |= reached if count >= least else set()
            return found


def fits_type(structure: Structure, name: str, task: Any) -> bool:
    kind = next(one for one in structure.types if one.name == name)
    if task.get("title", name) != name:
        return False
    use = task.get("tooluse")
    if (use is None and kind.must_call) or (use is not None and use["tool_name"] not in kind.tools):
        return False
    below = task.get("subtasks", [])
    if kind.subtasks is None:
        return not below
    return len(below) in ends(structure, kind.subtasks, below, 0)


def fits(structure: Structure, tree: Any) -> bool:
    tasks = tree["reasoning"]
    return len(tasks) in ends(structure, structure.reasoning, tasks, 0)


def keys(task: Any) -> list[str]:
    order = [
        key for key in ("title", "thought", "tooluse", "subtasks", "conclusion") if key in task
    ]
    assert list(task) == order
    return order


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    t = ByteTokenizer()
    return Vocabulary([t.bytes_of(i) for i in range(257)], frozenset({t.end}), t.encode)


def walk(vocabulary: Vocabulary, structure: Structure, seed: int, depth: int = 6) -> Any:
    """A tree drawn at random under the masks; strings end soon."""
    rng = random.Random(seed)
    quotes = [t for t, text in enumerate(vocabulary.tokens) if text.startswith(b'"')]
    brackets = [t for t, text in enumerate(vocabulary.tokens) if text == b"]"]
    matcher = typed_grammar(vocabulary, TOOLS, depth, 3, structure).matcher()
    row = np.zeros(vocabulary.words, dtype=np.int32)
    out = bytearray()
    while not matcher.finished:
        if matcher.wants_result:
            for token in vocabulary.encode('{"a":1}'):
                matcher.consume(token)
            out += b'{"a":1}'
            continue
        matcher.fill(row)
        choices = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist()
        assert choices
        inside = len(choices) > 20  # a string
        if inside and set(quotes) & set(choices):
            choices = sorted(set(quotes) & set(choices))
        elif len(out) > 400 and not inside and set(brackets) & set(choices):
            choices = brackets
        token = rng.choice(choices)
        matcher.consume(token)
        if token not in vocabulary.eos:
            out += vocabulary.tokens[token]
    return json.loads(bytes(out))


@pytest.mark.parametrize("name", STRUCTURES)
def test_whatever_is_drawn_fits(vocabulary: Vocabulary, name: str) -> None:
    structure = STRUCTURES[name]
    shapes = set()
    for seed in range(25):
        tree = walk(vocabulary, structure, seed)
        assert fits(structure, tree), tree
        shapes.add(json.dumps(tree))
    assert len(shapes) > 1 or name == "tuple"
    if name == "answer":
        assert isinstance(walk(vocabulary, structure, 0)["answer"], int)


def test_the_oracle_can_say_no() -> None:
    note, look = {"thought": "", "conclusion": ""}, {"tooluse": {"tool_name": "lookup"}}
    weigh = Structure.of(Weigh)

    def tree(*below: Any) -> Any:
        return {"reasoning": [{"thought": "", "subtasks": list(below), "conclusion": ""}]}

    assert fits(weigh, tree(look, look)) and fits(weigh, tree(look, look, note))
    assert not fits(weigh, tree(look)) and not fits(weigh, tree(look, note, look))
    assert not fits(weigh, tree(look, look, note, note)) and not fits(weigh, tree())


NAMES = ("a", "b", "c")
LEAVES = st.sampled_from(NAMES).map(One)
PARTS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: Sequence(tuple(parts)))
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: Choice(tuple(parts)))
        | st.tuples(inner, st.sampled_from([(0, 1), (1, None), (0, None), (2, 3)])).map(
            lambda pair: Many(pair[0], *pair[1])
        )
    ),
    max_leaves=5,
)


@given(PARTS, PARTS, st.integers(0, 99))
def test_any_expression_is_forced(root: Part, below: Part, seed: int) -> None:
    t = ByteTokenizer()
    small = Vocabulary([t.bytes_of(i) for i in range(257)], frozenset({t.end}), t.encode)
    types = (TaskType("a", subtasks=below), TaskType("b"), TaskType("c", tools=("lookup",)))
    try:
        structure = Structure(types, root)
    except StructureError:
        assert "a" in names(root) and "a" in names(below)
        return
    assert Structure.read(str(structure)) == structure
    try:
        tree = walk(small, structure, seed, depth=4)
    except GrammarError:
        assert structure.depth > 4
        return
    assert fits(structure, tree)


# ---- forms ----


@pytest.mark.parametrize("name", STRUCTURES)
def test_python_and_json_say_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    structure = STRUCTURES[name]
    assert Structure.read(json.loads(json.dumps(structure.json))) == structure
    module = ModuleType("declared")
    monkeypatch.setitem(sys.modules, "declared", module)  # where annotations are looked up
    exec(source(structure), module.__dict__)
    again: Structure = module.structure
    assert again.reasoning == structure.reasoning and again.answer == structure.answer
    assert {t.name: t for t in again.types} == {t.name: t for t in structure.types}


def test_a_declaration_says_what_it_means() -> None:
    plan = Structure.of(Plan)
    assert [one.name for one in plan.types] == ["plan", "look", "weigh", "note", "explore"]
    assert (plan.depth, plan.heights["weigh"], plan.heights["explore"]) == (2, 2, 1)
    assert 'A task "look": Look one fact up. It calls lookup.' in plan.told
    assert '2 to 3 "look", then 1 or more ("weigh" or "note"), then "explore"' in plan.told
    assert set(names(plan.reasoning)) == {"plan"}


class Endless(TaskClass):
    subtasks: "list[Endless]"


class Value(TaskClass):
    subtasks = list[Note]


class Missing(TaskClass):
    subtasks: "list[Nowhere]"  # type: ignore[name-defined] # noqa: F821


@pytest.mark.parametrize(
    ("declare", "reason"),
    [
        (lambda: Structure.of(Endless), "endless always hold another of themselves"),
        (lambda: Structure.of(Value), "with a colon"),
        (lambda: Structure.of(Missing), "'Nowhere', which is not declared"),
        (lambda: Structure.of(list[int]), "a task class, tuple"),
        (lambda: Structure.of(Annotated[list[Note], 3]), "(least, most)"),
        (lambda: Structure.of(Annotated[list[Note], (3, 2)]), "no greater than the second"),
        (lambda: Structure((TaskType("a"), TaskType("a")), One("a")), "declared twice"),
        (lambda: Structure((TaskType("a b"),), One("a b")), "letters, digits"),
        (lambda: Structure((TaskType("search"),), One("serch")), "did you mean search"),
        (
            lambda: Structure((TaskType("a", subtasks=One("x")),), One("a")),
            "a.subtasks holds 'x'",
        ),
        (lambda: Structure((TaskType("a", must_call=True),), One("a")), "names none"),
        (lambda: Structure.read({"types": [{"name": "a"}], "reasoning": {"choice": []}}), "empty"),
        (lambda: Structure.read({"types": [{"name": "a"}], "reasoning": {"lst": "a"}}), "wanted"),
        (lambda: Structure.read({"types": [{"name": "a", "tool": []}], "reasoning": "a"}), "known"),
        (lambda: Structure.read({"reasoning": "a"}), "types, reasoning and answer"),
        (lambda: Structure.read("{"), "JSON is wanted"),
        (lambda: Structure.of(Note, 3), "answer: a JSON schema or none"),
    ],
)
def test_a_wrong_declaration_is_explained(declare: Any, reason: str) -> None:
    with pytest.raises(StructureError) as error:
        declare()
    assert reason in str(error.value)


def test_depth_and_tools_are_checked(vocabulary: Vocabulary) -> None:
    with pytest.raises(GrammarError, match="max_depth 1"):
        typed_grammar(vocabulary, TOOLS, 1, None, Structure.of(Weigh))
    with pytest.raises(StructureError, match="tools of this run: other"):
        typed_grammar(vocabulary, TOOLS[1:], 5, None, Structure.of(Weigh))


# ---- runs ----


@pytest.mark.parametrize("name", ["tuple", "nested", "union", "recursive"])
def test_a_run_grows_what_is_declared(name: str) -> None:
    structure = STRUCTURES[name]
    with fake_session(1 << 14, pages=4096) as session:
        for seed in range(2):
            run = session.run(
                "grow", "tim", structure=structure, tools=[LOOKUP], seed=seed, temperature=1.0,
                max_depth=5, max_text=4,
            )  # fmt: skip
            result = run.wait(60)
            assert result.finish is Finish.STOP
            branch = next(iter(run.contexts[0].branches.values()))
            start = next(i for i, origin in branch.origins if origin is not Origin.PROMPT)
            tree = json.loads(bytes(t for t in branch.tokens[start:] if t < 256))
            assert fits(structure, tree) and result.answer == tree["answer"]
            for task in tree["reasoning"]:
                keys(task)
        assert session.run("x", structure=Weigh, tools=[LOOKUP], max_text=2).strategy == Tim(
            structure=Structure.of(Weigh), max_text=2
        )


def test_a_run_refuses_a_wrong_structure() -> None:
    with fake_session() as session:
        with pytest.raises(StructureError, match="did you mean a"):
            session.run("x", structure={"types": [{"name": "a"}], "reasoning": "b"})
        with pytest.raises(ValueError, match="leave grammar on"):
            session.run("x", structure=Note, grammar=False)
        with pytest.raises(UnknownStrategy, match="no parameter 'structure'"):
            session.run("x", "chain", structure=Note)


@pytest.mark.model
def test_the_models_own_tokens_are_forced_too() -> None:
    """Names, keys and brackets are several tokens there, and begin alike."""
    from workbench.model.load import locate, open_checkpoint
    from workbench.model.tokenizer import ModelTokenizer

    path = locate("smollm2-135m-instruct").path
    t = ModelTokenizer(*open_checkpoint(path).tokenizer_files())
    own = Vocabulary([t.token_bytes(i) for i in range(t.vocab_size)], t.eos, t.encode, t.special)
    alike = ("look", "look-up", "look-up-twice", "lookout")
    types = (*(TaskType(name) for name in alike), TaskType("day", subtasks=Many(One("look"), 2, 3)))
    union = Structure(types, Many(Choice(tuple(One(one.name) for one in types))))
    titles = set()
    for seed in range(60):
        tree = walk(own, union, seed)
        assert fits(union, tree)
        titles |= {task["title"] for task in tree["reasoning"]}
    assert titles == {*alike, "day"}
    for name in ("nested", "recursive", "list then the same"):
        assert fits(STRUCTURES[name], walk(own, STRUCTURES[name], 0))
