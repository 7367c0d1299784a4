"""`workbench lab`: JupyterLab on `notebooks/`."""

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

from workbench.cli.output import Failure, Verbs, emit, log


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("lab", parents=[common], help="JupyterLab on notebooks/")
    verb.add_argument("--dir", default=None, help="folder to open (default: notebooks/)")
    verb.add_argument("--port", type=int, default=8888)
    verb.add_argument("--no-browser", action="store_true")
    verb.set_defaults(handler=run)


def run(args: argparse.Namespace) -> None:
    if importlib.util.find_spec("jupyterlab") is None:
        raise Failure(
            "JupyterLab was wanted, but it is not installed;"
            " install the extra: pip install 'reasoning-workbench[lab]'"
        )
    folder = Path(args.dir or "notebooks")
    if not folder.is_dir():
        raise Failure(f"a folder of notebooks was wanted, {folder} is none; name one with --dir")
    command = [sys.executable, "-m", "jupyterlab", f"--port={args.port}", str(folder)]
    command += ["--no-browser"] * args.no_browser
    command += ["--allow-root"] * is_root()
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        announced = False
        for line in server.stderr or ():
            if not announced and "http://" in line and "/lab" in line:
                announced = True
                url = line[line.index("http://") :].strip()
                if args.json:
                    emit({"url": url})
                else:
                    print(url, flush=True)
            elif not announced or "[E " in line:
                log(line.rstrip())
        if code := server.wait():
            raise Failure(
                f"JupyterLab was wanted, it ended with status {code}; its words are above"
            )
    finally:
        if server.poll() is None:
            server.terminate()
            server.wait(10)


def is_root() -> bool:
    import os

    return hasattr(os, "geteuid") and os.geteuid() == 0
