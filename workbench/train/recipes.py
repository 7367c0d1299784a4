"""The adapters that ship with the package, as recipes that make them again."""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from workbench.model.load import open_model
from workbench.tasks.splits import SPLITS, Kind
from workbench.train.corpus import Encoder, Mixture
from workbench.train.led import Replay, replays
from workbench.train.loop import Loop, Recipe, Row
from workbench.train.net import LINEARS, LoraFacts, TrainNet
from workbench.train.step import Speed, Step

BASE = "smollm2-135m-instruct"
TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"  # no system text: tokens saved

SHARES: Mapping[Kind, float] = {"tool chain": 14, "non-local": 40, "in-prompt": 46}
HARDER = frozenset(  # what half of the steps had left the largest held-out losses on, in its kind
    "join hops limits hanoi expression proc_sort proc_gather proc_split2 proc_delete_char"
    " proc_count proc_search proc_rhythm proc_count2 proc_fill_word proc_cumulate"
    " long_multiplication long_product long_division sort_numbers".split()
)


def mixture(style: Literal["tree", "flat"], **changed: Any) -> Mixture:
    """Every family; each kind has its share of the problems, its harder families twice as many
    as the others."""
    parts = {name: 2.0 if name in HARDER else 1.0 for name in SPLITS}
    kinds = dict.fromkeys(SHARES, 0.0)
    for name, split in SPLITS.items():
        kinds[split.kind] += parts[name]
    shares = {
        name: SHARES[split.kind] * parts[name] / kinds[split.kind] for name, split in SPLITS.items()
    }
    return Mixture(style, tuple(shares.items()), **changed)


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("tim-smollm2", mixture("tree"), steps=5900),
        Recipe("cot-smollm2", mixture("flat"), steps=5900),
        # one thing changed each
        Recipe("tim-full-traces", mixture("tree", thresholds=(None,)), steps=5900),
        Recipe("tim-second-seed", mixture("tree"), steps=5900, seed=1),
        Recipe("tim-half", mixture("tree"), steps=2950),
        Recipe("tim-full-weights", mixture("tree"), LoraFacts(full=True), 5900, rate=1e-4),
    )
}


def encoder(base: str = BASE) -> Encoder:
    """How the base model writes prompts and pieces."""
    tokenizer = open_model(base).tokenizer
    (end,) = [i for i in tokenizer.eos if tokenizer.token_bytes(i) == b"<|im_end|>"]
    return Encoder(
        prompt=lambda text: tokenizer.encode(TURN.format(text)),
        piece=lru_cache(1 << 16)(tokenizer.encode),
        end=end,
    )


def net(recipe: Recipe, dtype: torch.dtype, base: str = BASE) -> TrainNet:
    """The base model's weights under a fresh LoRA."""
    opened = open_model(base)
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    for layer in range(opened.shape.layers):
        place = f"model.layers.{layer}"
        names += [f"{place}.input_layernorm.weight", f"{place}.post_attention_layernorm.weight"]
        names += [f"{place}.{linear}.weight" for linear in LINEARS]
    if not opened.shape.tied_head:
        names.append("lm_head.weight")
    weights = {name: opened.checkpoint.tensor(name).to(dtype) for name in names}
    return TrainNet(opened.shape, weights, recipe.lora, recipe.seed)


def train(
    recipe: Recipe,
    out: Path,
    resume: bool = False,
    workers: int = 1,
    seconds: float | None = None,
    speed: Speed | None = None,
) -> Iterator[Row]:
    """Run a recipe on the machine's GPU, or on its CPU (hours); yields figures as they come.
    `seconds` cuts the number of steps to what fits. Held-out losses by family are left in
    `out/validation.json`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    given = net(recipe, torch.bfloat16 if on_gpu else torch.float32)
    speed = speed or ("graph" if on_gpu else "plain")
    loop = Loop(recipe, given, partial(encoder, BASE), out, device, workers, speed, seconds)
    if resume:
        loop.resume()
    yield from loop.run()
    losses = {name: loop.validate(name) for name, _ in recipe.mixture.shares}
    (out / "validation.json").write_text(json.dumps(losses, indent=1))


def replay(recipe: Recipe, weights: Path, n: int) -> Iterator[Replay]:
    """`n` problems of every family at a short and a long level, led along their right text under
    an adapter's weights."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    given = net(recipe, torch.bfloat16 if on_gpu else torch.float32)
    given.read_adapter(load_file(weights))
    given.to(device)
    idle = torch.optim.SGD([torch.zeros(1)])
    step = Step(given, idle, recipe.clip, "compiled" if on_gpu else "plain")
    return replays(step, encoder(BASE), recipe.mixture.style, n)
