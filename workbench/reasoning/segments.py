"""Steps of a free text: a blank line ends one. Cut on tokens, never inside one."""

from workbench.reasoning.tree import Node, Tree
from workbench.words import Field, NodeKind, SeqId


class StepTracker:
    """`push` each token of one branch in order; a step opens with its first token and is closed by
    the token that brings a blank line, or by `end`."""

    def __init__(self, tree: Tree, parent: Node, seq: SeqId) -> None:
        self.tree, self.parent, self.seq = tree, parent, seq
        self.text = ""
        self._bytes = bytearray()
        self._step: Node | None = None
        self._start = 0

    def push(self, index: int, text: bytes) -> None:
        if self._step is None:
            if not text.strip() and self._bytes:
                self._bytes += text
                return
            self._step = self.tree.open(self.parent, NodeKind.STEP, self.seq, index)
            self._start = len(self._bytes)
        self._bytes += text
        news = self._bytes[max(self._start, len(self._bytes) - len(text) - 1) :]
        if b"\n\n" in news and self._bytes[self._start :].strip():
            self._close(index + 1)

    def end(self, index: int) -> str:
        """The stream ended before token `index`; the whole text."""
        if self._step is not None:
            self._close(index)
        self.text = self._bytes.decode("utf-8", "replace")
        return self.text

    def _close(self, index: int) -> None:
        step, self._step = self._step, None
        assert step is not None
        said = self._bytes[self._start :].decode("utf-8", "replace").strip()
        self.tree.set_title(step, said.split("\n")[0])
        self.tree.set_field(step, Field.TEXT, step.first, index)
        self.tree.close(step, index, said.split("\n")[-1])
