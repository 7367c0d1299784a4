"""transformers' decode step on a GPU at a published shape: the peer of `bench decode`."""

import time
from typing import Any

import torch

from workbench.bench.random_net import CONFIGS

ROOM = 128  # tokens that a static cache keeps free


class HfDecode:
    """transformers' own net with random weights in bfloat16, attention by torch's SDPA."""

    def __init__(
        self, name: str, device: str = "cuda", dtype: torch.dtype = torch.bfloat16
    ) -> None:
        import transformers

        facts = dict(CONFIGS[name])
        family = facts.pop("architectures")[0].removesuffix("ForCausalLM")
        facts["rope_parameters"] = {"rope_type": "default", "rope_theta": facts.pop("rope_theta")}
        self.config: Any = getattr(transformers, f"{family}Config")(**facts)
        self.config._attn_implementation = "sdpa"
        if "num_experts" in facts:
            self.config._experts_implementation = "grouped_mm"
        with torch.device("meta"):
            model = getattr(transformers, f"{family}ForCausalLM")(self.config)
        self.model: Any = model.to(dtype).to_empty(device=device).eval()
        for key, weight in self.model.named_parameters():
            weight.data.fill_(1.0) if "norm" in key else weight.data.normal_(0, 0.02)
        rotary = self.model.model.rotary_emb
        self.model.model.rotary_emb = type(rotary)(config=self.config).to(device)
        self.device = torch.device(device)
        self.dtype = dtype

    @torch.inference_mode()
    def static_graph(self, batch: int, context: int) -> tuple[str, float]:
        """(name, seconds a step): one token of each row over a static cache, one CUDA graph."""
        step = self._static_step(batch, context)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return "transformers, static cache, CUDA graph", _median(graph.replay)

    def _static_step(self, batch: int, context: int) -> Any:
        from transformers import StaticCache

        config = self.config
        cache: Any = StaticCache(config=config, max_cache_len=context + ROOM)
        cache.early_initialization(
            batch, config.num_key_value_heads, config.head_dim, self.dtype, self.device
        )
        for layer in cache.layers:
            layer.keys.normal_()
            layer.values.normal_()
        ids = torch.randint(0, config.vocab_size, (batch, 1), device=self.device)
        places = torch.full((batch, 1), context, device=self.device)

        def step() -> torch.Tensor:
            for layer in cache.layers:  # the same place again and again
                layer.cumulative_length.fill_(context)
            out = self.model(
                input_ids=ids, position_ids=places, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            token: torch.Tensor = out.logits.argmax(-1)
            return token

        return step

    @torch.inference_mode()
    def compiled(self, batch: int, context: int, tokens: int = 97) -> tuple[str, float]:
        """(name, seconds a step): `generate` over a static cache, which compiles the step itself;
        its time for many tokens less its time for one."""
        ids = torch.randint(0, self.config.vocab_size, (batch, context), device=self.device)

        def seconds(n: int) -> float:
            torch.cuda.synchronize()
            begin = time.perf_counter()
            self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, min_new_tokens=n,
                do_sample=False, cache_implementation="static", pad_token_id=0, eos_token_id=None,
            )  # fmt: skip
            torch.cuda.synchronize()
            return time.perf_counter() - begin

        seconds(tokens)  # compiles
        many = min(seconds(tokens) for _ in range(2))
        one = min(seconds(1) for _ in range(2))
        return "transformers, static cache, torch.compile", (many - one) / (tokens - 1)

    @torch.no_grad()
    def continuous(self, batch: int, context: int, tokens: int = 65) -> tuple[str, float]:
        """(name, seconds a step): transformers' continuous batching, its own CUDA graphs, while all
        rows decode."""
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        draw = torch.Generator().manual_seed(0)
        prompts = [
            torch.randint(0, self.config.vocab_size, (context,), generator=draw).tolist()
            for _ in range(batch)
        ]
        told = self.model.generate_batch(
            prompts,
            generation_config=GenerationConfig(
                max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
            ),
            continuous_batching_config=ContinuousBatchingConfig(use_cuda_graph=True),
            record_timestamps=True, progress_bar=False, persistent_manager=False,
        )  # fmt: skip
        stamps = [request.timestamps for request in told.values()]
        begin, end = max(map(min, stamps)), min(map(max, stamps))
        inside = sum(begin < stamp <= end for row in stamps for stamp in row)
        if not inside:
            raise RuntimeError("no step was seen in which all rows decoded")
        return "transformers, continuous batching", (end - begin) / inside * batch


def _median(call: Any, repeats: int = 7, target_s: float = 0.06) -> float:
    call()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    torch.cuda.synchronize()
    each = max(1, round(target_s / (time.perf_counter() - begin)))
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(each):
            call()
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - begin) / each)
    return sorted(seconds)[repeats // 2]
