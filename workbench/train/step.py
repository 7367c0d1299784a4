"""One optimiser step, and the same step as a CUDA graph.

A step of a small net is thousands of short kernels: launched one by one, the host is the limit.
With a fixed shape of rows the whole step (masks, forward, backward, clipping, AdamW) is captured
once and replayed; attention is compiled and skips the blocks that no query sees.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from workbench.train.corpus import Batch
from workbench.train.masks import Mask, Rule, dense, rule
from workbench.train.net import TrainNet
from workbench.train.views import NO_TARGET, Ints

Speed = Literal["plain", "compiled", "graph"]
TARGET_SHARE = 0.75  # of a batch's tokens at most are targets; what is over is left out
EAGER_STEPS = 3  # before a capture: kernels are compiled, the optimiser's state is made


class Step:
    """Calls take a batch and a learning rate and return the mean loss, still on the device.

    `speed`: "plain" for any device; "compiled" compiles layers and block masks (CUDA); "graph"
    replays the compiled step. Batches must then all have the first one's shape.
    """

    def __init__(
        self, net: TrainNet, optimizer: torch.optim.Optimizer, clip: float, speed: Speed = "plain"
    ) -> None:
        self.net, self.optimizer, self.clip, self.speed = net, optimizer, clip, speed
        self.device = net.embedding.device
        self._made = 0
        self._inputs: dict[str, Tensor] = {}
        self._graph: torch.cuda.CUDAGraph | None = None
        self._loss = torch.zeros((), device=self.device)
        self._rule: Rule | None = None
        self._blocks: Callable[..., Mask] = create_block_mask
        if speed != "plain":
            self._blocks = torch.compile(create_block_mask, dynamic=False)
            net.one_layer = torch.compile(net.one_layer, dynamic=False)
            net.loss = torch.compile(net.loss, dynamic=False)

    def __call__(self, batch: Batch, rate: float) -> Tensor:
        self._load(batch)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        if self.speed != "graph" or self._made < EAGER_STEPS:
            self._made += 1
            return self._update()
        if self._graph is None:
            self._capture()
        assert self._graph is not None
        self._graph.replay()
        return self._loss

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss of a batch; nothing is learned."""
        self._load(batch)
        return self._forward().detach()  # with gradients, or the layers were compiled once more

    @torch.no_grad()
    def predictions(self, batch: Batch) -> Ints:
        """The likeliest next token at every target, [B, N], NO_TARGET elsewhere."""
        self._load(batch, 1.0)
        given, net = self._inputs, self.net
        x = net.hidden(given["ids"], given["positions"], self._mask()).flatten(0, 1)
        flat = batch.targets.reshape(-1)
        places = np.flatnonzero(flat != NO_TARGET)
        found = np.full(flat.shape, NO_TARGET, np.int32)
        for part in np.array_split(places, 1 + len(places) // 8192):
            chosen = x[torch.from_numpy(part).to(self.device)]
            hidden = F.rms_norm(chosen, (x.shape[-1],), net.norm, net.shape.norm_eps)
            found[part] = (hidden @ net.head.T).argmax(-1).to(torch.int32).cpu().numpy()
        return found.reshape(batch.targets.shape)

    def _update(self) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._forward()
        torch.autograd.backward(loss)
        parameters = [p for p in self.net.parameters() if p.requires_grad]
        torch.nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        return loss.detach()

    def _capture(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)  # so that a replay writes them, never adds
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = self._update()

    def _forward(self) -> Tensor:
        given = self._inputs
        loss: Tensor = self.net(
            given["ids"], given["positions"], self._mask(), given["places"], given["wanted"]
        )
        return loss

    def _mask(self) -> Mask:
        document, dead = self._inputs["document"], self._inputs["dead"]
        if self.speed == "plain":
            return dense(document, dead)
        self._rule = self._rule or rule(document, dead)
        rows, row = document.shape
        return self._blocks(self._rule, rows, None, row, row, device=str(self.device))

    def _load(self, batch: Batch, share: float = TARGET_SHARE) -> None:
        flat = batch.targets.reshape(-1)
        places = np.flatnonzero(flat != NO_TARGET)
        if not len(places):
            raise ValueError("a batch without targets: every document was longer than the row")
        limit = int(batch.tokens * share)
        places = places[:limit]
        wanted = np.full(limit, NO_TARGET, np.int64)
        wanted[: len(places)] = flat[places]
        columns = {
            "ids": batch.ids,
            "positions": batch.positions,
            "document": batch.document,
            "dead": batch.dead,
            "places": np.pad(places, (0, limit - len(places))),
            "wanted": wanted,
        }
        for name, column in columns.items():
            host = torch.from_numpy(column)
            if name not in self._inputs or self._inputs[name].shape != host.shape:
                self._inputs[name] = host.to(self.device)
                self._rule = None
            elif self.device.type == "cuda":
                self._inputs[name].copy_(host.pin_memory(), non_blocking=True)
            else:
                self._inputs[name].copy_(host)
