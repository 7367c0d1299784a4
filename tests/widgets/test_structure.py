"""The structure editor's Python side: judged as it is edited, and what it gives runs."""

import pytest

import workbench
from tests.unit.session.fake_model import fake_session
from widgets.gallery import SAMPLE
from workbench import Structure, TaskClass
from workbench.session.editing import judge
from workbench.tools import Lookup
from workbench.words import Finish


class Step(TaskClass):
    """One step."""

    tools = ("lookup",)


class Plan(TaskClass):
    subtasks: list[Step]


def test_classes_go_in_and_come_out() -> None:
    editor = workbench.edit_structure(Plan, tools=[Lookup({})])
    assert editor.tools == ["lookup"] and Structure.read(editor.structure) == Structure.of(Plan)
    assert "class Plan(TaskClass):\n    subtasks: list[Step]" in editor.source
    assert '"""One step."""' in editor.source
    editor.value = {**editor.value, "reasoning": {"list": "plan"}}  # as a view does
    assert Structure.read(editor.structure) == Structure.of(list[Plan])
    assert "Structure.of(list[Plan])" in editor.source


def test_what_is_no_structure_is_said_and_not_given() -> None:
    editor = workbench.edit_structure()
    assert editor.report["depth"] == 2
    editor.value = {**editor.value, "reasoning": "plam"}
    assert "did you mean plan" in editor.report["why"]
    with pytest.raises(ValueError, match="no structure yet"):
        editor.structure  # noqa: B018
    assert "did you mean plan" in repr(editor)
    editor.value = {**editor.value, "reasoning": "plan"}
    assert editor.report["why"] == "" and Structure.read(editor.structure)


def test_what_the_editor_gives_runs() -> None:
    editor = workbench.edit_structure(Plan, tools=["lookup"])
    with fake_session() as session:
        run = session.run(
            "x", structure=editor.structure, tools=[Lookup({})], max_text=3, temperature=1.0
        )
        assert run.wait(60).finish is Finish.STOP


def test_the_gallery_shows_a_structure() -> None:
    assert judge(SAMPLE)["why"] == "" and Structure.read(SAMPLE).json == SAMPLE


def test_unknown_options_are_refused() -> None:
    from widgets import StructureEditor

    with pytest.raises(TypeError, match="did you mean 'theme'"):
        StructureEditor({}, check=judge, them="dark")
