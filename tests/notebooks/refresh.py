"""`python tests/notebooks/refresh.py`: from text to page. Pairs, executes and strips every notebook.

Kept: outputs, as checked facts and as what a reader without a kernel sees. Stripped: widget state and
references to it (a bundle a view), and whatever changes from run to run.
"""

from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"


def strip(notebook: Any) -> Any:
    notebook.metadata.pop("widgets", None)
    notebook.metadata.pop("language_info", None)  # names the Python that ran it
    for place, cell in enumerate(notebook.cells):
        cell.id = f"cell-{place:02}"
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop(WIDGET, None)
    return notebook


def refresh(text: Path) -> Path:
    notebook = jupytext.read(text)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": text.parent}}).execute()
    page = text.with_suffix(".ipynb")
    nbformat.write(strip(notebook), page)
    return page


if __name__ == "__main__":
    for source in sorted(NOTEBOOKS.glob("*.py")):
        print(refresh(source))
