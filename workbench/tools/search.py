"""Offline search over a folder of texts, ranked by BM25 (Robertson & Zaragoza 2009; k1 1.2, b
0.75)."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.tools.contract import ToolError

K1, B = 1.2, 0.75
_WORD = re.compile(r"\w+", re.UNICODE)


@dataclass(frozen=True, slots=True)
class Passage:
    source: str
    text: str
    words: Counter[str]
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """Passages are the paragraphs of every `*.txt` and `*.md` under `folder`, read once."""

    folder: Path
    name: str = "search"
    description: str = "Find passages about a query in the local library."
    results: int = 3
    max_chars: int = 400  # of a passage that is given back
    _passages: list[Passage] = field(default_factory=list, init=False, repr=False)
    _frequency: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    def __post_init__(self) -> None:
        folder = Path(self.folder)
        if not folder.is_dir():
            raise ToolError(f"search: a folder of texts is wanted, {str(folder)!r} is none")
        paths = sorted(p for p in folder.rglob("*") if p.suffix in (".txt", ".md") and p.is_file())
        for path in paths:
            for text in re.split(r"\n\s*\n", path.read_text("utf-8", "replace")):
                words = Counter(_words(text))
                if words:
                    source = path.relative_to(folder).as_posix()
                    self._passages.append(Passage(source, text.strip(), words, words.total()))
                    self._frequency.update(words.keys())
        if not self._passages:
            raise ToolError(f"search: {str(folder)!r} holds no .txt or .md with words in it")

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {
            "type": "object",
            "properties": {"query": {"type": "string"}},
            "required": ["query"],
            "additionalProperties": False,
        }

    def __call__(self, **arguments: Any) -> Any:
        ranked = self.rank(str(arguments["query"]))[: self.results]
        return [
            {"source": p.source, "text": p.text[: self.max_chars], "score": round(score, 3)}
            for score, p in ranked
        ]

    def rank(self, query: str) -> list[tuple[float, Passage]]:
        """Passages with a positive score, best first; equal ones in reading order."""
        total = len(self._passages)
        mean = sum(p.length for p in self._passages) / total
        scored = []
        for passage in self._passages:
            score = 0.0
            for word in set(_words(query)):
                count = passage.words[word]
                if count:
                    seen = self._frequency[word]
                    rarity = math.log(1 + (total - seen + 0.5) / (seen + 0.5))
                    norm = K1 * (1 - B + B * passage.length / mean)
                    score += rarity * count * (K1 + 1) / (count + norm)
            if score > 0:
                scored.append((score, passage))
        return sorted(scored, key=lambda pair: -pair[0])


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]
