"""`--tools LIST`: names of tools, with the file or folder that one reads from after `=`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.cli.output import Failure

if TYPE_CHECKING:
    from workbench.tools import Tool

KNOWN = "calculator, python, lookup=TABLE.json, search=FOLDER"


def toolbox(names: str) -> "list[Tool]":
    return [tool(name.strip()) for name in names.split(",") if name.strip()]


def tool(word: str) -> "Tool":
    from workbench.tools import Lookup, Search, ToolError, named_tool

    name, _, source = word.partition("=")
    if name == "lookup":
        return Lookup(table(source))
    if name == "search":
        if not Path(source or "?").is_dir():
            raise Failure(f"search=FOLDER was wanted, {word!r} names no folder")
        return Search(Path(source))
    try:
        return named_tool(name)
    except ToolError:
        raise Failure(f"a tool was wanted, {word!r} came; known: {KNOWN}") from None


def table(source: str) -> dict[str, object]:
    try:
        found = json.loads(Path(source).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise Failure(f"lookup=TABLE.json was wanted, {source!r}: {error}") from error
    if not isinstance(found, dict):
        raise Failure(f"a JSON object of keys and values was wanted, {source} holds another thing")
    return found
