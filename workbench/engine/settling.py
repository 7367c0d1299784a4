"""What one sampled token does to its branch, and whether its decode ends with it."""

from typing import TYPE_CHECKING

import torch

from workbench.engine.checks import check_room
from workbench.engine.errors import BadArgument
from workbench.engine.jobs import Generate
from workbench.engine.protocols import TOKEN, HiddenFeedback, Inject, Soft, Stop, Token
from workbench.engine.sampler import Draw
from workbench.events import TokenSampled, TokensFed
from workbench.words import Finish, Origin

if TYPE_CHECKING:
    from workbench.engine.engine import Engine

Ending = tuple[Finish, str]


def settle_draw(engine: "Engine", job: Generate, draw: Draw) -> None:
    """Append the token, tell it, ask monitor and conditions."""
    branch = job.branch
    if branch.job is not job:  # a neighbour's monitor dropped it in this very step
        return
    index, text = len(branch.tokens), engine.ledger.know(draw.token)
    vector = None if job.feedback is TOKEN else _vector(engine, job)
    if job.want.logits and branch.logits is not None:
        job.logits.append(branch.logits.clone())
    for layer in job.want.hidden:
        job.hidden.setdefault(layer, []).append(branch.hidden[layer])
    branch.append((draw.token,), Origin.SAMPLED)
    if vector is not None:
        branch.vectors[index] = vector
        branch.pure = min(branch.pure, branch.length - 1)
    _tell(engine, job, index, draw)
    job.tokens.append(draw.token)
    job.text.append(text)
    job.logprobs.append(draw.logprob)
    job.entropies.append(draw.entropy)
    if job.want.top:
        job.top.append(tuple(zip(draw.top_ids, draw.top_logprobs, strict=True))[: job.want.top])
    try:
        ending = _ending(engine, job, draw.token, text)
    except Exception as fault:  # the caller's matcher, monitor or predicate
        job.fail(fault)
        return
    if job.queue is not None:
        finish = ending[0] if ending else None
        job.queue.put_nowait(Token(index, draw.token, text, draw.logprob, draw.entropy, finish))
    if ending and branch.job is job:
        job.finish(*ending)


def _vector(engine: "Engine", job: Generate) -> torch.Tensor | None:
    """The next input in place of the sampled token's embedding."""
    branch, feedback = job.branch, job.feedback
    if isinstance(feedback, HiddenFeedback):
        return branch.hidden[-1].clone()
    if isinstance(feedback, Soft):
        assert branch.logits is not None
        weights = feedback.weigh(torch.softmax(branch.logits.float() / _heat(job), -1))
        ids = weights.nonzero()[:, 0]
        return weights[ids].float() @ engine.forward.embed(ids).float()
    return None


def _heat(job: Generate) -> float:
    return job.row.temperature or 1.0


def _tell(engine: "Engine", job: Generate, index: int, draw: Draw) -> None:
    branch, n = job.branch, engine.record_top
    request = engine.requests[branch.request]
    request.sampled += 1
    request.last_token = engine.t()
    if request.first_token is None:
        request.first_token = request.last_token
    engine.control.sampled()
    if not engine.heard():
        return
    top_ids, top_logprobs = draw.top_ids[:n], draw.top_logprobs[:n]
    for token in top_ids:
        if token not in engine.ledger.known:
            engine.ledger.know(token)
    engine.tell(
        TokenSampled(
            engine.now,
            branch.seq,
            index,
            draw.token,
            draw.logprob,
            draw.entropy,
            top_ids,
            top_logprobs,
        )
    )


def _ending(engine: "Engine", job: Generate, token: int, text: bytes) -> Ending | None:
    branch, until = job.branch, job.until
    if job.matcher is not None and not (until.eos and token in engine.eos):
        job.matcher.consume(token)
    ending: Ending | None = None
    if job.monitor is not None:
        match job.monitor(branch, token):
            case Stop(why):
                ending = (Finish.MONITOR, why)
            case Inject(tokens):
                _inject(engine, job, tokens)
            case None:
                pass
            case other:
                raise BadArgument(
                    f"a monitor answers Stop, Inject or None, got {other!r}; to fork, Stop and "
                    "call fork"
                )
    stop = job.tail.push(text)
    if until.eos and token in engine.eos:
        return (Finish.STOP, "end token")
    if token in until.stop_ids:
        return (Finish.STOP, f"token {token}")
    if stop is not None:
        return (Finish.STOP, stop)
    if until.predicate is not None and until.predicate(branch):
        return (Finish.STOP, "predicate")
    if ending is not None:
        return ending
    if job.matcher is not None and job.matcher.finished:
        return (Finish.GRAMMAR, "the grammar allows nothing more")
    if until.max_tokens is not None and len(job.tokens) >= until.max_tokens:
        return (Finish.LENGTH, f"{until.max_tokens} tokens")
    if branch.seen >= engine.limit:
        return (Finish.LENGTH, f"the window of {engine.limit} tokens is full")
    return None


def _inject(engine: "Engine", job: Generate, tokens: tuple[int, ...]) -> None:
    branch = job.branch
    if not tokens:
        return
    check_room(engine, branch, len(tokens))
    index = len(branch.tokens)
    branch.append(tokens, Origin.FED)
    if job.matcher is not None:
        for token in tokens:
            job.matcher.consume(token)
    engine.requests[branch.request].fed += len(tokens)
    for token in tokens:
        engine.ledger.know(token)
    engine.tell(TokensFed(engine.now, branch.seq, index, Origin.FED, tokens))
