"""What the trace is told beside steps and pages: tokens' bytes, branches' beginnings, peaks."""

from typing import TYPE_CHECKING

from workbench.engine.sequence import Branch
from workbench.events import BranchOpened, BranchRestored, TokenKnown, TokensFed
from workbench.words import RequestId, SeqId

if TYPE_CHECKING:
    from workbench.engine.engine import Engine


class Ledger:
    """What has been told already, so that it is told once."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self.known: dict[int, bytes] = {}  # token -> its bytes
        self._unopened: set[SeqId] = set()
        self._forgotten: set[SeqId] = set()  # preempted, to be recomputed

    def know(self, token: int) -> bytes:
        """Bytes of a token, told the first time that it is mentioned."""
        text = self.known.get(token)
        if text is None:
            latent = token >= self._engine.forward.facts.vocabulary
            text = self.known[token] = "◌".encode() if latent else self._engine.detokenize(token)
            self._engine.tell(TokenKnown(self._engine.now, token, text))
        return text

    def forgotten(self, branch: Branch) -> None:
        """The branch gave its pages up and will be recomputed."""
        self._forgotten.add(branch.seq)

    def announce(self, branch: Branch) -> None:
        """The branch is opened as far as its caller knows; told when it first gets a place in a
        step."""
        self._unopened.add(branch.seq)

    def opened(self, branch: Branch, reused: int) -> None:
        if branch.seq in self._unopened:
            self._unopened.discard(branch.seq)
            self._engine.tell(
                BranchOpened(
                    self._engine.now, self._engine.t(), branch.seq, branch.request, None, 0, reused
                )
            )
            self.fed(branch, 0)

    def told(self, branch: Branch) -> bool:
        """Whether the trace knows the branch; it is forgotten from then on."""
        unopened = branch.seq in self._unopened
        self._unopened.discard(branch.seq)
        self._forgotten.discard(branch.seq)
        return not unopened

    def restored(self, branch: Branch) -> None:
        if branch.seq in self._forgotten:
            self._forgotten.discard(branch.seq)
            self._engine.tell(
                BranchRestored(self._engine.now, branch.seq, "recompute", len(branch.pages))
            )

    def fed(self, branch: Branch, start: int) -> None:
        """Tell stream tokens from `start` on as put in, one fact a run of one origin."""
        stop, runs = len(branch.tokens), []
        for first, origin in reversed(branch.origins):  # a long stream has many
            if start < stop:
                runs.append((max(start, first), stop, origin))
            stop = first
            if first <= start:
                break
        for a, b, origin in reversed(runs):
            for token in branch.tokens[a:b]:
                self.know(token)
            self._engine.tell(
                TokensFed(self._engine.now, branch.seq, a, origin, tuple(branch.tokens[a:b]))
            )

    def count_peaks(self) -> None:
        memory, requests = self._engine.memory, self._engine.requests
        held, resident = memory.pages.held, memory.pages.resident
        own: dict[RequestId, int] = {}
        for branch in memory.branches.values():
            own[branch.request] = own.get(branch.request, 0) + branch.stored
        for name, tokens in own.items():
            request = requests[name]
            if held > request.peak_pages:
                request.peak_pages = held
            if resident > request.peak_tokens:
                request.peak_tokens = resident
            if tokens > request.peak_own:
                request.peak_own = tokens
