"""A plain joiner of ES modules, for builds without esbuild: a module becomes a function's result.

It knows what our modules use and refuses the rest: `import { a, b as c } from "./x.js";` on one
line, `export` before a declaration, and `export default` in an entry. Nothing is minified.
"""

import re
from pathlib import Path

IMPORT = re.compile(r'^import \{([^}]*)\} from "(\.[^"]+)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async function|function|class|const|let) (\w+))", re.MULTILINE)
DEFAULT = re.compile(r"^export default ", re.MULTILINE)
OTHER = re.compile(r"^(?:import|export)\b.*$", re.MULTILINE)


class JoinError(Exception):
    """A module uses a form of import or export that the joiner does not know."""


def join(entry: Path) -> str:
    """One module with everything that `entry` reaches."""
    order: list[Path] = []
    _visit(entry.resolve(), order, ())
    names = {path: f"m{i}" for i, path in enumerate(order)}
    parts = [_wrapped(path, names) for path in order]
    if DEFAULT.search(entry.read_text()):
        parts.append(f"export default {names[entry.resolve()]}.byDefault;")
    return "\n".join(parts) + "\n"


def _visit(path: Path, order: list[Path], above: tuple[Path, ...]) -> None:
    if path in above:
        raise JoinError(f"{path.name} imports itself by way of {above[-1].name}")
    if path in order:
        return
    for _, where in IMPORT.findall(path.read_text()):
        _visit((path.parent / where).resolve(), order, (*above, path))
    order.append(path)


def _wrapped(path: Path, names: dict[Path, str]) -> str:
    source = path.read_text()
    exported = EXPORT.findall(source)

    def bind(match: re.Match[str]) -> str:
        module = names[(path.parent / match[2]).resolve()]
        return f"const {{{match[1].replace(' as ', ': ')}}} = {module};\n"

    body = EXPORT.sub("", IMPORT.sub(bind, source))
    if DEFAULT.search(body):
        body = DEFAULT.sub("const byDefault = ", body)
        exported.append("byDefault")
    if left := OTHER.search(body):
        raise JoinError(f"{path.name}: `{left[0]}` is a form that widgets/join.py does not know")
    return f"const {names[path]} = (() => {{\n{body}return {{ {', '.join(exported)} }};\n}})();"
