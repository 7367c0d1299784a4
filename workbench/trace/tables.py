"""The tables that every view draws from: what a picture may know of a run.

A table is a set of columns of equal length. The same tables go over the wire to a notebook, into a
static page and to a test. Rows are only ever appended; a later fact about an earlier row (a token
was pruned, a node closed) is a *patch* of that cell. Everything is placed by engine step; `NEVER`
marks a step or a row that has not come. `at(step)` in a view is: born <= step < died.

Dtypes: u1 u2 u4 i4 f4 f8 as in numpy (little-endian); "str" is UTF-8 (offsets u4 [n+1] and bytes
u1), "bytes" the same without a promise of valid UTF-8.
"""

from workbench.words import Provenance

NEVER = 0xFFFFFFFF  # u4: not yet, or not at all
NOBODY = -1  # i4: no node, no parent, no branch
GOES_ON = 255  # pages.reason: not freed; the stay lasts, or the page's next row goes on with it

TABLES: dict[str, dict[str, str]] = {
    # one row an engine step, in order; waits are the gaps between t + dt and the next t
    "steps": {
        "t": "f8",  # seconds since the run started
        "dt": "f4",
        "phase": "u1",  # words.Phase
        "rows": "u2",
        "prefill": "u4",
        "decode": "u4",
        "extend": "u4",
        "reencode": "u4",
        "sampled": "u4",
        "tokens": "u4",  # rows of `tokens` that exist after this step
        "resident": "u4",  # tokens in memory after it, shared ones once
        "unpruned": "u4",  # derived: tokens that would be in memory had nothing been pruned
        "pages": "u4",  # pages held after it
        "waiting": "u2",
    },
    # one row a stream token of a branch, in order of appearance. A fork has rows for its own tokens
    # only, and for those below its fork point that had left memory and were encoded again for it
    # (their `index` is below that of its parent's row `branches.at`). Tokens that an edit replaced
    # keep their rows: of two rows of one branch and index the later one is the text.
    "tokens": {
        "branch": "u2",  # row of `branches`
        "index": "u4",  # in the branch's stream
        "id": "u4",
        "node": "i4",  # row of `nodes`
        "field": "u1",  # words.Field
        "origin": "u1",  # words.Origin
        # step after which it is in the stream; its K and V come with the next pass of its branch
        "born": "u4",
        # step from which no branch has it in memory (pruned, edited, dropped), or NEVER
        "died": "u4",
        "logprob": "f4",  # NaN where it was not sampled
        "entropy": "f4",
    },
    # most probable tokens, sorted by `token`, then by rank
    "alternatives": {"token": "u4", "id": "u4", "logprob": "f4"},
    "vocabulary": {"id": "u4", "text": "bytes"},  # of every id that the run mentions
    "nodes": {
        "id": "u4",  # words.NodeId, as commands name it
        "parent": "i4",  # row of `nodes`
        "branch": "u2",
        "kind": "u1",  # words.NodeKind
        "depth": "u1",  # 0 for a root
        "owner": "u1",  # colour 1..12, 0 neutral
        "lap": "u1",
        "opened": "u4",  # steps
        "closed": "u4",
        "pruned": "u4",  # step at which its subtask list left memory
        "first": "u4",  # rows of `tokens`: its own text, its children's included
        "last": "u4",  # exclusive, NEVER while open
        "list_first": "u4",  # rows of `tokens`: contents of its subtask list, NEVER where none
        "list_last": "u4",
        "pinned": "u1",
        "called": "u4",  # step of its tool call
        "tool_ok": "u1",
        "tool_seconds": "f4",  # NaN until it returned
        "path": "str",
        "title": "str",
        "tool": "str",
        "conclusion": "str",
    },
    # one row a stay of one content on one page; a page whose owner changes begins a new row
    "pages": {
        "page": "u4",
        # row of `branches` that made it, or has had it longest since the maker gave it back; NOBODY
        # while only the prefix cache keeps it
        "branch": "i4",
        "place": "u4",  # in that branch's block table
        "node": "i4",  # of its first token
        "second": "i4",  # of its last token where that is another node
        "from": "u4",  # steps
        "to": "u4",
        "used": "u2",  # slots taken at the end of the stay, or now
        "reason": "u1",  # words.FreeReason of its end, or GOES_ON
        "copied_from": "i4",  # page it was copied from on write, or NOBODY
        "pinned": "u1",
    },
    "refcounts": {"stay": "u4", "step": "u4", "count": "u2"},  # changes, `stay` is a row of `pages`
    "prunes": {
        "step": "u4",
        "node": "i4",
        "branch": "u2",
        "first": "u4",  # rows of `tokens`
        "last": "u4",
        "removed": "u4",
        "reencoded": "u4",
        "rotated": "u4",
        "pages_freed": "i4",
        "before": "u4",
        "after": "u4",
        "mode": "str",
        "cause": "str",
    },
    "branches": {
        "id": "u4",  # words.SeqId
        "request": "u2",
        "parent": "i4",
        # row of `tokens` in the parent from which they differ, NEVER for a first branch
        "at": "u4",
        "opened": "u4",
        "closed": "u4",
        "reused": "u4",
        "state": "str",
    },
    "requests": {
        "id": "u4",  # words.RequestId
        "opened": "u4",
        "closed": "u4",
        "title": "str",
        "strategy": "str",
        "params": "str",
        "finish": "str",
        "answer": "str",
        "error": "str",
    },
    # expert load: routed tokens a step, layer and expert; only where the net has experts
    "routes": {"step": "u4", "layer": "u2", "expert": "u2", "count": "u2"},
    # kind: command, refused (text is JSON: command, arguments, outcome or why), pause, resume,
    # note, loss
    "marks": {"step": "u4", "t": "f8", "kind": "str", "text": "str"},
}

META = (
    "model backend page_size pages window limit layers experts started_at complete live provenance "
    "versions reasons last_step"
).split()

# what is not told by a fact but follows from several; all else is measured or told
DERIVED = dict.fromkeys(
    (
        "steps.unpruned steps.tokens tokens.node tokens.field tokens.born tokens.died nodes.depth"
        " nodes.first nodes.last pages.node pages.second pages.used branches.at routes.count"
    ).split(),
    Provenance.DERIVED.value,
)
