"""What can go wrong with a wish. Each message says what was wanted, what came and what to do."""


class EngineError(Exception):
    """Root of everything that a verb of the engine raises on purpose."""


class BadArgument(EngineError, ValueError):
    """An argument that no state of the engine could serve."""


class PromptTooLong(EngineError):
    """The prompt alone fills the window."""


class WindowFull(EngineError):
    """A branch would hold more resident tokens than the window allows."""


class PoolTooSmall(EngineError):
    """One branch alone needs more pages than the pool can give it."""


class Unserved(EngineError):
    """The backend, or the engine, does not offer this; the message names who does."""


class BranchGone(EngineError):
    """The branch was dropped, or its request has ended."""


class BranchBusy(EngineError):
    """The branch is already decoding or being fed; one verb at a time."""


class RequestCancelled(EngineError):
    """A person or a program cancelled the request."""


class StepFailed(EngineError):
    """The forward pass raised; nothing of the step counts. `__cause__` is what it raised."""


class Refused(EngineError):
    """A command that cannot be obeyed now. Handlers of commands raise it with the reason."""


class AuditError(AssertionError):
    """A structure contradicts itself. Always a fault of ours; the message is a sentence."""
