"""The loop: AdamW on a LoRA, batches made by other processes, state on disk, figures out."""

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from workbench.train.corpus import Batch, Encoder, Mixture, batch_at
from workbench.train.net import LINEARS, LoraFacts, TrainNet
from workbench.train.views import NO_TARGET


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a run, but the machine."""

    name: str
    mixture: Mixture = field(default_factory=Mixture)
    lora: LoraFacts = field(default_factory=LoraFacts)
    steps: int = 1400
    tokens: int = 16_384  # a step, packing included
    rate: float = 2e-3
    warmup: int = 40
    floor: float = 0.02  # of the rate, at the end of the cosine
    clip: float = 1.0
    seed: int = 0
    validate_every: int = 200
    save_every: int = 200
    report_every: int = 50

    def rate_at(self, step: int) -> float:
        """Warm-up, then a cosine down to `floor`."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        return self.rate * (self.floor + (1 - self.floor) * cosine)


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of a stretch of steps: mean loss a target, held-out loss where it was taken."""

    step: int
    loss: float
    validation: float | None
    tokens: int
    seconds: float


def visible(batch: Batch, device: torch.device) -> Tensor:
    """Who sees whom: [B, 1, N, N] bool (see `views`)."""
    document = torch.from_numpy(batch.document).to(device)
    dead = torch.from_numpy(batch.dead).to(device)
    place = torch.arange(document.shape[1], device=device)
    same = document[:, :, None] == document[:, None, :]
    causal = place[None, :, None] >= place[None, None, :]
    alive = place[None, :, None] < dead[:, None, :]
    padding = torch.eye(len(place), dtype=torch.bool, device=device)  # no row may be empty
    return (same & causal & alive | padding)[:, None]


class Loop:
    """One training run over a net; `run` yields rows and leaves the adapter in `out`.

    `encoder` is called in worker processes; it must be importable there.
    """

    def __init__(
        self,
        recipe: Recipe,
        net: TrainNet,
        encoder: Callable[[], Encoder],
        out: Path,
        device: torch.device,
        workers: int = 1,
    ) -> None:
        self.recipe, self.net, self.encoder = recipe, net.to(device), encoder
        self.out, self.device, self.workers = out, device, workers
        self.optimizer = torch.optim.AdamW(
            [p for p in net.parameters() if p.requires_grad],
            lr=recipe.rate,
            betas=(0.9, 0.98),
            weight_decay=0.0,
            fused=device.type == "cuda",
        )
        self.step = 0
        out.mkdir(parents=True, exist_ok=True)

    @property
    def state_file(self) -> Path:
        return self.out / "state.pt"

    def resume(self) -> None:
        """Go on where a killed run saved last. Raises FileNotFoundError when nothing was saved."""
        state = torch.load(self.state_file, map_location=self.device, weights_only=True)
        self.net.load_state_dict(state["net"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])

    def save(self) -> None:
        trained = {k: v for k, v in self.net.state_dict().items() if k.startswith(("down", "up"))}
        state = {"net": trained, "optimizer": self.optimizer.state_dict(), "step": self.step}
        partial = self.state_file.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.state_file)

    def run(self) -> Iterator[Row]:
        recipe = self.recipe
        began, losses, tokens = time.perf_counter(), torch.zeros((), device=self.device), 0
        since = self.step
        for batch in self._batches():
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.rate_at(self.step)
            loss = self._loss(batch)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), recipe.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            losses += loss.detach()
            tokens += batch.tokens
            last = self.step == recipe.steps
            if self.step % recipe.save_every == 0 or last:
                self.save()
            if self.step % recipe.report_every == 0 or last:
                check = self.step % recipe.validate_every == 0 or last
                mean = float(losses) / (self.step - since)
                seconds = time.perf_counter() - began
                yield Row(self.step, mean, self.validate() if check else None, tokens, seconds)
                losses.zero_()
                since = self.step
        self.write_adapter()

    @torch.no_grad()
    def validate(self, batches: int = 2) -> float:
        """Mean loss over held-out prompts, the same ones each time."""
        recipe, encoder = self.recipe, self.encoder()
        held_out = (
            batch_at(recipe.mixture, encoder, recipe.tokens, recipe.seed, n, held_out=True)
            for n in range(batches)
        )
        return sum(float(self._loss(batch)) for batch in held_out) / batches

    def write_adapter(self) -> Path:
        """Adapter in PEFT's layout; returns the weights file."""
        weights = self.out / "adapter_model.safetensors"
        save_file(self.net.adapter(), weights)
        rank = self.recipe.lora.rank
        config = {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": int(rank * self.recipe.lora.scale),
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "target_modules": [name.split(".")[1] for name in LINEARS],
        }
        (self.out / "adapter_config.json").write_text(json.dumps(config, indent=1))
        (self.out / "recipe.json").write_text(json.dumps(asdict(self.recipe), indent=1))
        return weights

    def _loss(self, batch: Batch) -> Tensor:
        def there(column: object) -> Tensor:
            return torch.as_tensor(column).to(self.device, torch.int64, non_blocking=True)

        mask = visible(batch, self.device)
        targets = there(batch.targets)
        if not bool((batch.targets != NO_TARGET).any()):
            raise ValueError("a batch without targets: every document was longer than the row")
        loss: Tensor = self.net(there(batch.ids), there(batch.positions), mask, targets)
        return loss

    def _batches(self) -> Iterator[Batch]:
        recipe = self.recipe
        ahead = 4 * self.workers
        with ProcessPoolExecutor(
            self.workers, get_context("spawn"), _set_encoder, (self.encoder,)
        ) as pool:
            waiting: list[Future[Batch]] = []
            for step in range(self.step, recipe.steps + ahead):
                if step < recipe.steps:
                    waiting.append(pool.submit(_make, recipe, step))
                if len(waiting) > ahead or (step >= recipe.steps and waiting):
                    yield waiting.pop(0).result()


_encoder: Encoder | None = None


def _set_encoder(make: Callable[[], Encoder]) -> None:
    global _encoder
    _encoder = make()


def _make(recipe: Recipe, step: int) -> Batch:
    assert _encoder is not None
    return batch_at(recipe.mixture, _encoder, recipe.tokens, recipe.seed, step)
