"""The nouns of the house: plain numbers and enumerations that every room may speak of.

Standard library only. A *branch* is one stream of tokens with one block table; a *request* owns one
or more branches; a *page* is `page_size` consecutive slots of the KV pool; a *step* is one forward
pass.
"""

from enum import IntEnum, StrEnum
from typing import NewType

SeqId = NewType("SeqId", int)  # a branch
RequestId = NewType("RequestId", int)
PageId = NewType("PageId", int)
NodeId = NewType("NodeId", int)  # a node of a reasoning tree, unique in a run
Step = NewType("Step", int)  # engine steps count from 0; facts before the first step bear step 0


class Phase(IntEnum):
    """What a step, or a row in it, did. A mixed step bears the phase with the most tokens."""

    PREFILL = 0  # prompt tokens
    DECODE = 1  # one sampled token a row
    EXTEND = 2  # tokens put in from outside: tool results, hints
    REENCODE = 3  # survivors behind a hole, encoded again
    WAIT = 4  # no forward pass: a tool or a person is awaited


class Field(IntEnum):
    """The part of a node's text that a token belongs to."""

    STRUCTURE = 0  # braces, keys, separators
    PROMPT = 1
    THOUGHT = 2
    CALL = 3  # tool name and parameters
    RESULT = 4  # a tool's reply, put in by the runtime
    CONCLUSION = 5
    ANSWER = 6
    TEXT = 7  # free text of a strategy without fields


class Origin(IntEnum):
    """Where a token came from."""

    PROMPT = 0
    SAMPLED = 1
    TOOL = 2
    FED = 3  # a hint, a forced token, an edit


class FreeReason(IntEnum):
    """Why a page went back to the pool. The page map draws each as its own ghost."""

    PRUNED = 0  # its tokens left the working memory
    REENCODED = 1  # its tokens were encoded again elsewhere
    MOVED = 2  # its tokens were rotated and moved elsewhere
    DROPPED = 3  # its branch was dropped
    ENDED = 4  # its request ended
    EVICTED = 5  # it lay in the prefix cache and was wanted elsewhere
    PREEMPTED = 6  # the pool was short


class NodeKind(IntEnum):
    """What a node of a tree is."""

    ROOT = 0
    TASK = 1
    STEP = 2  # a step of a chain or of a search
    BRANCH = 3


class PruneMode(StrEnum):
    """How survivors behind a hole get their new positions (2507.16784 Eq. 1; specs: two modes).

    REENCODE runs them through the net again: equal to a fresh prefill of the surviving text.
    ROTATE keeps K and V and turns K by the length of the hole: cheaper, and it leaks what was
    removed, since deeper layers of the survivors attended to it.
    """

    REENCODE = "reencode"
    ROTATE = "rotate"


class Finish(StrEnum):
    """Why a request or a decode ended."""

    STOP = "stop"  # an end token or the `until` condition
    LENGTH = "length"  # a token limit
    CANCELLED = "cancelled"
    MONITOR = "monitor"  # the caller's monitor said so
    GRAMMAR = "grammar"  # the grammar allows nothing more
    BUDGET = "budget"
    ERROR = "error"


class Provenance(StrEnum):
    """Where a shown number comes from."""

    MEASURED = "measured"
    DERIVED = "derived"
