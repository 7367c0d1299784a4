"""The loop: AdamW on a LoRA, batches made by other processes, state on disk, figures out."""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import save_file

from workbench.train.corpus import Batch, Encoder, Mixture, batch_at
from workbench.train.net import LINEARS, LoraFacts, TrainNet
from workbench.train.step import Speed, Step


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


TIMED = (50, 150)  # steps between which a step is timed


class Loop:
    """One training run over a net; `run` yields rows and leaves the adapter in `out`.

    `encoder` is called in worker processes; it must be importable there. With `seconds` the number
    of steps is cut, once the first hundred have been timed, to what fits.
    """

    def __init__(
        self,
        recipe: Recipe,
        net: TrainNet,
        encoder: Callable[[], Encoder],
        out: Path,
        device: torch.device,
        workers: int = 1,
        speed: Speed = "plain",
        seconds: float | None = None,
    ) -> None:
        self.recipe, self.net, self.encoder = recipe, net.to(device), encoder
        self.out, self.device, self.workers, self.seconds = out, device, workers, seconds
        on_gpu = device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            [p for p in net.parameters() if p.requires_grad],
            lr=torch.tensor(recipe.rate, device=device) if on_gpu else recipe.rate,
            betas=(0.9, 0.98),
            weight_decay=0.0,
            fused=on_gpu,
            capturable=on_gpu,
        )
        self.learn = Step(self.net, self.optimizer, recipe.clip, speed)
        self.step = 0
        self._timed_from = 0.0
        self._held_out: dict[str, list[Batch] | Future[list[Batch]]] = {}  # by family, "": all
        out.mkdir(parents=True, exist_ok=True)

    @property
    def state_file(self) -> Path:
        return self.out / "state.pt"

    def resume(self) -> None:
        """Go on where a killed run saved last. Raises FileNotFoundError when nothing was saved."""
        state = torch.load(self.state_file, map_location=self.device, weights_only=True)
        self.net.load_state_dict(state["net"], strict=False)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.step = int(state["step"])
        self.recipe = replace(self.recipe, steps=int(state["steps"]))
        self.seconds = None

    def save(self) -> None:
        state = {
            "net": self.net.trained(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "steps": self.recipe.steps,
        }
        partial = self.state_file.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.state_file)
        self.write_adapter()

    def run(self) -> Iterator[Row]:
        began, losses, tokens = time.perf_counter(), torch.zeros((), device=self.device), 0
        since = self.step
        for batch in self._batches():
            losses += self.learn(batch, self.recipe.rate_at(self.step))
            self.step += 1
            tokens += batch.tokens
            self._fit(time.perf_counter() - began)
            last = self.step == self.recipe.steps
            if self.step % self.recipe.save_every == 0 or last:
                self.save()
            if self.step % self.recipe.report_every == 0 or last:
                check = self.step % self.recipe.validate_every == 0 or last
                mean = float(losses) / (self.step - since)
                seconds = time.perf_counter() - began
                yield Row(self.step, mean, self.validate() if check else None, tokens, seconds)
                losses.zero_()
                since = self.step

    def validate(self, family: str = "") -> float:
        """Mean loss over held-out problems of the mixture or of one family, the same ones each
        time."""
        if family not in self._held_out:
            _set_encoder(self.encoder)
            self._held_out[family] = _make_held_out(self.recipe, family)
        held = self._held_out[family]
        batches = held.result() if isinstance(held, Future) else held
        return sum(float(self.learn.loss(batch)) for batch in batches) / len(batches)

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

    def _fit(self, elapsed: float) -> None:
        """Cut the number of steps to what `seconds` allow. Compilation and capture lie before
        `TIMED[0]`."""
        if self.seconds is None or self.step not in TIMED:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        if self.step == TIMED[0]:
            self._timed_from = time.perf_counter()
            return
        a_step = (time.perf_counter() - self._timed_from) / (TIMED[1] - TIMED[0])
        left = int((self.seconds - elapsed) / a_step)
        steps = min(self.recipe.steps, self.step + max(1, left))
        self.recipe = replace(self.recipe, steps=steps)
        self.seconds = None

    def _batches(self) -> Iterator[Batch]:
        ahead = 4 * self.workers
        with ProcessPoolExecutor(
            self.workers, get_context("spawn"), _set_encoder, (self.encoder,)
        ) as pool:
            for family in ("", *(name for name, _ in self.recipe.mixture.shares)):
                if family not in self._held_out:
                    self._held_out[family] = pool.submit(_make_held_out, self.recipe, family)
            waiting: deque[Future[Batch]] = deque()
            place = self.step
            while self.step < self.recipe.steps:
                while len(waiting) < ahead and place < self.recipe.steps:
                    waiting.append(pool.submit(_make, self.recipe, place))
                    place += 1
                yield waiting.popleft().result()
            for batch in waiting:
                batch.cancel()


_encoder: Encoder | None = None


def _set_encoder(make: Callable[[], Encoder]) -> None:
    global _encoder
    _encoder = make()


def _make(recipe: Recipe, step: int) -> Batch:
    assert _encoder is not None
    return batch_at(recipe.mixture, _encoder, recipe.tokens, recipe.seed, step)


def _make_held_out(recipe: Recipe, family: str) -> list[Batch]:
    assert _encoder is not None
    mixture = replace(recipe.mixture, shares=((family, 1.0),)) if family else recipe.mixture
    return [
        batch_at(mixture, _encoder, recipe.tokens, recipe.seed, n, held_out=True)
        for n in range(1 if family else 2)
    ]
