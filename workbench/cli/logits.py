"""`workbench logits`: logits of given token ids, to compare with any other implementation."""

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.cli.output import Failure, Verbs, emit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.forward import Forward

CHUNK = 512


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("logits", parents=[common], help="logits of given token ids, to a .npy")
    verb.add_argument("--model", required=True)
    verb.add_argument("--ids", type=Path, required=True, help="a JSON list of token ids")
    verb.add_argument("--out", type=Path, required=True, help="F.npy: float32 [tokens, vocabulary]")
    verb.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "fp16", "auto"))
    verb.add_argument("--weights", default="auto")
    verb.add_argument("--backend", default="auto")
    verb.set_defaults(handler=run)


def read_ids(path: Path) -> list[int]:
    try:
        ids = json.loads(path.read_text())
    except OSError as error:
        raise Failure(f"a JSON list of token ids was wanted, {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise Failure(f"a JSON list of token ids was wanted, {path} is no JSON: {error}") from error
    if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
        raise Failure(f"a list of at least one token id was wanted, {path} holds {str(ids)[:60]}")
    return ids


def all_logits(model: "Forward", ids: list[int], page_size: int = 16) -> "NDArray[np.float32]":
    """[tokens, V], in chunks through pages of the model's own pool: the way that a prompt goes."""
    import numpy as np
    import torch

    from workbench.forward import ForwardBatch

    pages = -(-len(ids) // page_size)
    pool = model.new_pool(model.layout(pages, page_size))
    tables = torch.arange(pages).unsqueeze(0)
    parts = []
    for start in range(0, len(ids), CHUNK):
        chunk = torch.tensor(ids[start : start + CHUNK])
        places = torch.arange(start, start + len(chunk))
        batch = ForwardBatch(
            token_ids=chunk,
            positions=places,
            slots=places,  # page p is the p-th of the table
            query_start=torch.tensor([0, len(chunk)]),
            kv_lens=torch.tensor([start + len(chunk)]),
            block_tables=tables,
            logit_rows=torch.arange(len(chunk)),
        )
        parts.append(model(batch, pool).logits.cpu().numpy())
    return np.concatenate(parts)


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from workbench.model import load_model

    ids = read_ids(args.ids)
    model = load_model(args.model, dtype=args.dtype, weights=args.weights, backend=args.backend)
    if wrong := [i for i in ids if not 0 <= i < model.facts.vocabulary]:
        raise Failure(
            f"token ids below {model.facts.vocabulary} were wanted, {args.ids} holds {wrong[0]}"
        )
    start = time.perf_counter()
    logits = all_logits(model, ids)
    seconds = time.perf_counter() - start
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.save(args.out, logits)
    found = {
        "shape": list(logits.shape),
        "dtype": args.dtype,
        "backend": model.name,
        "seconds": seconds,
    }
    if args.json:
        emit(found)
    else:
        print(f"{args.out}: {found['shape']} by {model.name} in {seconds:.2f} s")
