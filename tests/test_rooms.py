"""The house's walls: who may import whom, how long a file may be, and what may not leak into it.

Imports are read from the parse tree, function-local ones too. A module belongs to the room with the
longest matching name; a room's own modules are always open to it.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("workbench", "widgets", "kernels_cupy")


@dataclass(frozen=True)
class Room:
    """Rooms of ours (`w:` is short for `workbench.`) and libraries that it may import."""

    ours: str = ""
    libraries: str = ""


DOORS = (
    "workbench w:words w:events w:commands w:settings w:session w:forward w:engine w:model w:ops"
    " w:cpu w:kv w:trace w:reasoning w:tools w:tasks w:experts"
)
ROOMS: dict[str, Room] = {
    "workbench": Room(),  # the front door names its rooms as text and imports them on use
    "workbench.words": Room(),
    "workbench.events": Room("w:words"),
    "workbench.commands": Room("w:words"),
    "workbench.settings": Room("w:words"),
    "workbench.forward": Room("w:kv.layout", "torch"),
    "workbench.reasoning": Room("w:words w:events w:engine.protocols w:tools.contract"),
    "workbench.kv": Room("w:words"),
    "workbench.kv.pages": Room("w:words"),
    "workbench.kv.prefix": Room("w:words"),
    "workbench.kv.layout": Room("w:words", "torch"),
    "workbench.kv.pool": Room("w:words w:kv.layout w:forward", "torch"),
    "workbench.ops": Room("w:words w:kv.layout w:forward", "torch"),
    "workbench.model": Room(
        "w:words w:kv w:ops w:forward",
        "torch numpy safetensors tokenizers gguf jinja2 huggingface_hub",
    ),
    "workbench.cpu": Room(
        "w:words w:kv.layout w:ops.contract w:forward w:model.shape", "numpy numba llvmlite torch"
    ),
    "workbench.engine": Room(
        "w:words w:events w:commands w:settings w:kv w:forward w:ops.contract", "torch numpy"
    ),
    "workbench.engine.scheduler": Room("w:words w:kv.pages w:kv.prefix"),
    "workbench.engine.grammar": Room("w:words", "llguidance numpy"),
    "workbench.trace": Room("w:words w:events", "numpy"),
    "workbench.trace.export": Room("w:words w:events w:trace", "numpy pyarrow"),
    "workbench.tools": Room("w:words"),
    "workbench.tasks": Room("w:words"),
    "workbench.experts": Room("w:words w:events w:kv.layout w:ops.contract", "torch scipy numpy"),
    "workbench.session": Room(DOORS, "torch numpy"),
    "workbench.bench": Room(
        DOORS + " kernels_cupy widgets",
        "torch numpy transformers llama_cpp cupy playwright tokenizers",
    ),
    "workbench.cli": Room(DOORS + " w:bench w:train w:api widgets", "torch numpy cupy"),
    "workbench.train": Room(DOORS, "torch numpy transformers peft safetensors"),
    "workbench.api": Room(DOORS, "starlette uvicorn"),
    "kernels_cupy": Room(
        "w:words w:kv.layout w:kv.pool w:ops.contract w:forward",
        "torch cupy cupy_backends numpy triton",
    ),
    "widgets": Room(
        "w:words w:commands w:trace", "anywidget traitlets numpy IPython ipywidgets playwright"
    ),
    "widgets.report": Room("", "holoviews matplotlib"),
    "widgets.gpu_report": Room("widgets.report", "holoviews"),
    "widgets.eval_report": Room("widgets.report", "holoviews"),
    "widgets.training_report": Room("widgets.report", "holoviews"),
    "widgets.app": Room(
        "w:words w:commands w:trace", "anywidget traitlets numpy panel holoviews param bokeh"
    ),
}

# The arrows that run backwards, each by name.
BACKWARDS = {
    ("workbench.ops.choose", "kernels_cupy"),
    ("workbench.model.laptop", "workbench.cpu"),
    ("workbench.session", "widgets"),
    ("workbench.trace.export", "widgets"),
}

MAX_LINES = {".py": 400, ".js": 250, ".cu": 300, ".cuh": 300}
LONG_KERNEL = 600  # a tensor-core kernel that says why in its head comment ("Long because")


def room_of(module: str) -> str:
    parts = module.split(".")
    for n in range(len(parts), 0, -1):
        name = ".".join(parts[:n])
        if name in ROOMS:
            return name
    raise KeyError(f"{module} belongs to no room: add one to the table")


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Absolute names of all that a module imports, `from a import b` as `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                kept = parents[: len(parents) - node.level + is_package]
                base = ".".join([*kept, base] if base else kept)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def under(name: str, roof: str) -> bool:
    return name == roof or name.startswith(roof + ".")


def at_the_door(name: str) -> bool:
    """`workbench` itself or a name in it that is no room: `open_workbench`, `load_trace`."""
    return name == "workbench" or (
        under(name, "workbench") and name.count(".") == 1 and name not in MODULES
    )


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    room = room_of(module)
    allowed = [name.replace("w:", "workbench.") for name in ROOMS[room].ours.split()]
    libraries = set(ROOMS[room].libraries.split())
    found = []
    for name in imports(source, module, is_package):
        top = name.split(".")[0]
        if top in sys.stdlib_module_names or under(name, room):
            continue
        if top in PACKAGES:
            fine = any(
                at_the_door(name) if roof == "workbench" else under(name, roof) for roof in allowed
            )
            listed = any(under(module, a) and under(name, b) for a, b in BACKWARDS)
            if not fine and not listed:
                found.append(f"{module} imports {name}: the room {room} may not")
        elif top not in libraries:
            found.append(f"{module} imports {name}: {top} is no library of the room {room}")
    return found


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def tracked() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_stay_in_their_rooms(module: str) -> None:
    path = MODULES[module]
    assert violations(path.read_text(), module, path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("workbench.reasoning.chain", "import torch"),
        ("workbench.reasoning.chain", "def run():\n    from torch import nn"),
        ("workbench.engine.scheduler", "from workbench.kv.pool import TorchPool"),
        ("workbench.engine.step", "from workbench.model.decoder import Decoder"),
        ("workbench.engine.step", "from ..model import decoder"),
        ("workbench.trace.store", "from workbench.forward import Forward"),
        ("workbench.words", "import numpy"),
        ("widgets.base", "from workbench import open_workbench"),
        ("widgets.base", "def f():\n    import workbench.engine"),
        ("kernels_cupy.launch", "from workbench.model import load_model"),
        ("workbench.kv.pages", "from workbench.kv.pool import TorchPool"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


def test_the_front_door_is_light() -> None:
    """`import workbench` loads neither torch nor cupy."""
    code = (
        "import sys, workbench; sys.exit(any(m in sys.modules for m in ('torch', 'cupy', 'numba')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_files_stay_readable() -> None:
    too_long = []
    for path in tracked():
        limit = MAX_LINES.get(path.suffix)
        if limit is None:
            continue
        text = path.read_text()
        if path.suffix in (".cu", ".cuh") and "Long because" in text:
            limit = LONG_KERNEL
        if (lines := sum(bool(line.strip()) for line in text.splitlines())) > limit:
            too_long.append(f"{path.relative_to(ROOT)}: {lines} written lines, at most {limit}")
    assert too_long == []


def test_nothing_of_the_machine_leaks() -> None:
    """No paths of a development machine, no registry's host: the project speaks of itself alone."""
    words = [
        "/wo" + "rk/",
        "/ro" + "ot/",
        "/ho" + "me/",
        "pypi" + ".org",
        "npmjs" + ".org",
        "deb.deb" + "ian.org",
        "registry." + "npm",
        "/opt/" + "wheels",
    ]
    leaks = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" in data[:4096]:
            continue
        text = data.decode("utf-8", "replace")
        leaks += [f"{path.relative_to(ROOT)} mentions {w}" for w in words if w in text]
    assert leaks == []
