"""The JavaScript modules' own tests, in plain node; and the bundles that travel with widgets."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from widgets.build import ENTRIES, JS, LIMIT, STATIC, build
from widgets.join import JoinError, join

ROOT = Path(__file__).resolve().parents[2]
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")


@needs_node
@pytest.mark.parametrize("suite", sorted(p.name for p in (ROOT / "tests/js").glob("*.test.js")))
def test_in_node(suite: str) -> None:
    command = [str(NODE), "--test", "--test-reporter=tap", str(ROOT / "tests/js" / suite)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "# pass 0" not in done.stdout


def test_bundles_are_built_and_small() -> None:
    for path in build():
        assert 1000 < path.stat().st_size < LIMIT, path
    assert {p.stem for p in STATIC.glob("*.js")} >= set(ENTRIES)
    assert "npmjs" not in (JS / "package-lock.json").read_text()


@needs_node
@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_the_plain_joiner_makes_the_same_module(name: str, tmp_path: Path) -> None:
    joined, bundled = tmp_path / "joined.mjs", tmp_path / "bundled.mjs"
    joined.write_text(join(JS / ENTRIES[name]))
    bundled.write_text((STATIC / f"{name}.js").read_text())
    if name == "page":  # it runs at once and wants a document
        subprocess.run([str(NODE), "--check", str(joined)], check=True)
        return
    look = (
        "import(process.argv[1]).then((m) => console.log(JSON.stringify(Object.keys(m.default))))"
    )
    keys = [
        json.loads(
            subprocess.run(
                [str(NODE), "--input-type=module", "-e", look, str(path)],
                capture_output=True, text=True, check=True,
            ).stdout
        )
        for path in (joined, bundled)
    ]  # fmt: skip
    assert keys == [["render"], ["render"]]


@pytest.mark.parametrize("source", ['import x from "./b.js";', 'export * from "./b.js";'])
def test_the_joiner_refuses_forms_it_does_not_know(source: str, tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text(source + "\n")
    (tmp_path / "b.js").write_text("export const b = 1;\n")
    with pytest.raises(JoinError, match=r"a\.js"):
        join(tmp_path / "a.js")


def test_the_joiner_refuses_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text('import { b } from "./b.js";\nexport const a = 1;\n')
    (tmp_path / "b.js").write_text('import { a } from "./a.js";\nexport const b = 1;\n')
    with pytest.raises(JoinError, match="imports itself"):
        join(tmp_path / "a.js")
