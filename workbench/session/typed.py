"""A declared structure as the engine's grammar of typed trees."""

from workbench.engine.grammar import Vocabulary
from workbench.engine.tree_grammar import ToolShape, TreeShape
from workbench.engine.typed_tree import ListShape, TypedGrammar, TypeShape
from workbench.reasoning.parts import Part, automaton
from workbench.reasoning.structures import Structure, StructureError


def typed_grammar(
    vocabulary: Vocabulary,
    tools: tuple[ToolShape, ...],
    max_depth: int,
    max_text: int | None,
    structure: Structure,
) -> TypedGrammar:
    """Raises StructureError for a tool that is not there, GrammarError for a depth that is too
    small and for an answer's schema that is none."""
    names = [tool.name for tool in tools]
    if missing := structure.unserved(names):
        raise StructureError(missing)
    places = {one.name: i for i, one in enumerate(structure.types)}

    def shaped(part: Part) -> ListShape:
        machine = automaton(part)
        rows = tuple({places[name]: to for name, to in row.items()} for row in machine.next)
        return ListShape(rows, machine.accepting)

    never = len(places) + max_depth + 1  # a type that no tree can end is never offered
    types = tuple(
        TypeShape(
            one.name,
            tuple(names.index(tool) for tool in one.tools),
            one.must_call,
            None if one.subtasks is None else shaped(one.subtasks),
            structure.heights.get(one.name, never),
        )
        for one in structure.types
    )
    shape = TreeShape(tools, max_depth, max_text, structure.answer)
    return TypedGrammar(vocabulary, shape, types, shaped(structure.reasoning))
