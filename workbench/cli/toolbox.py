"""`--tools LIST`: names of tools, with the file or folder that one reads from after a colon."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.cli.output import Failure

if TYPE_CHECKING:
    from workbench.tools import Tool


def tools_of(names: str) -> "list[Tool]":
    """`calculator,python,search:FOLDER,lookup:TABLE.json`. Raises Failure or ToolError."""
    if not names:
        return []
    from workbench.tools import Lookup, toolbox

    words = [name.strip() for name in names.split(",") if name.strip()]
    tables = [word.partition(":")[2] for word in words if word.startswith("lookup:")]
    others = ",".join(word for word in words if not word.startswith("lookup:"))
    return [*toolbox(others), *(Lookup(table(source)) for source in tables)]


def table(source: str) -> dict[str, object]:
    try:
        found = json.loads(Path(source).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise Failure(f"lookup:TABLE.json was wanted, {source!r}: {error}") from error
    if not isinstance(found, dict):
        raise Failure(f"a JSON object of keys and values was wanted, {source} holds another thing")
    return found
