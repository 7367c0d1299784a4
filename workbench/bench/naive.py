"""The naive way to prune: transformers' own cache, cropped at each hole, survivors run again."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch

from workbench.bench.peers import Transformers
from workbench.bench.script import Act, Forget, Put, Say
from workbench.model.safefiles import SafeFile


@dataclass(frozen=True, slots=True)
class Told:
    """One text told greedily: tokens sampled, seconds after the prompt, most tokens held, and
    whether it was the right one to its end."""

    sampled: int
    seconds: float
    peak: int
    right: bool


class Naive(Transformers):
    """One request at a time; the adapter is merged into the weights."""

    def __init__(
        self,
        source: Path,
        adapter: str,
        device: str,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(source, torch.bfloat16 if device == "cuda" else torch.float32)
        self.model.to(device)
        self.device, self.clock = device, clock
        self._merge(Path(str(files("workbench.model") / "adapters" / adapter)))

    @torch.inference_mode()
    def solve(self, prompt: Sequence[int], acts: Sequence[Act]) -> Told:
        """Greedily along the acts, until a token is another than the right text's."""
        from transformers import DynamicCache

        self.cache = DynamicCache()
        likeliest = self._run(list(prompt))
        base, peak, text, said, right = len(prompt), len(prompt), 0, 0, True
        resident: list[tuple[int, int]] = []  # (place in the text, token)
        began = self.clock()
        for act in acts:
            match act:
                case Say(ids):
                    for token in ids:
                        said += 1
                        if likeliest != token:
                            right = False
                            break
                        likeliest = self._run([token])
                case Put(ids):
                    likeliest = self._run(list(ids))
                case Forget(a, b):
                    hole = next(n for n, (at, _) in enumerate(resident) if at >= a)
                    behind = [one for one in resident[hole:] if one[0] >= b]
                    del resident[hole:]
                    self.cache.crop(base + hole - self.cache.get_seq_length())
                    likeliest = self._run([token for _, token in behind])
                    resident += behind
                    continue
            if not right:
                break
            resident += enumerate(act.ids, text)
            text += len(act.ids)
            peak = max(peak, base + len(resident))
        return Told(said, self.clock() - began, peak, right)

    def _run(self, ids: list[int]) -> int:
        start = self.cache.get_seq_length()
        places = torch.arange(start, start + len(ids), device=self.device)[None]
        out = self.model(
            torch.tensor([ids], device=self.device), past_key_values=self.cache, use_cache=True,
            position_ids=places, logits_to_keep=1,
        )  # fmt: skip
        return int(out.logits[0, -1].argmax())

    def _merge(self, folder: Path) -> None:
        """Add a LoRA's product to the weights it belongs to."""
        facts = json.loads((folder / "adapter_config.json").read_text())
        file = SafeFile(folder / "adapter_model.safetensors")
        weights = dict(self.model.named_parameters())
        for name in file.names:
            if not name.endswith(".lora_A.weight"):
                continue
            a, b = file.tensor(name), file.tensor(name.replace(".lora_A.", ".lora_B."))
            weight = weights[name.removeprefix("base_model.model.").replace(".lora_A.", ".")]
            added = (b.float() @ a.float()) * (facts["lora_alpha"] / facts["r"])
            weight.data += added.to(weight.device, weight.dtype)
