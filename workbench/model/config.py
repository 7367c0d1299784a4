"""A checkpoint's `config.json` -> `ModelShape`. The families' differences stand here."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from .errors import ModelError
from .shape import ModelShape, Moe, Rope, RopeKind

# architecture as named in config.json -> family
FAMILIES: Mapping[str, str] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "OlmoeForCausalLM": "olmoe",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}
ROPE_KINDS = get_args(RopeKind)

# what a family's config means where it is silent
EPS = {"llama": 1e-6, "mistral": 1e-6, "mixtral": 1e-5, "olmoe": 1e-5}
THETA = {"mixtral": 1e6, "qwen3": 1e4}
TIED: Mapping[str, bool] = {}
QK_NORM: Mapping[str, Any] = {
    "qwen3": "per-head", "qwen3_moe": "per-head", "olmoe": "full-width",
}  # fmt: skip


def read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ModelError(
            f"wanted {path}, which does not exist; give a checkpoint's folder"
        ) from error
    except ValueError as error:
        raise ModelError(f"{path} is no readable JSON ({error}); fetch it again") from error
    return config


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """Facts of a net from its config. Raises ModelError where we do not serve it."""
    named = (config.get("architectures") or ["none named"])[0]
    family = FAMILIES.get(named)
    if family is None:
        raise ModelError(
            f"architecture {named} is not served; these are: {', '.join(sorted(FAMILIES))}"
        )
    if (act := config.get("hidden_act", "silu")) != "silu":
        raise ModelError(f"hidden_act {act!r} is not served; the families here use 'silu'")
    try:
        return _shape(family, config)
    except KeyError as error:
        raise ModelError(
            f"config.json of {named} lacks {error}; give the checkpoint's own"
        ) from error
    except (ValueError, TypeError) as error:
        raise ModelError(f"config.json of {named} is not usable: {error}") from error


def _shape(family: str, config: Mapping[str, Any]) -> ModelShape:
    heads, width, layers = (
        int(config[key]) for key in ("num_attention_heads", "hidden_size", "num_hidden_layers")
    )
    bias = bool(config.get("attention_bias", False))
    return ModelShape(
        family=family,
        vocabulary=int(config["vocab_size"]),
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or width // heads),
        ffn=int(config["intermediate_size"]),
        norm_eps=float(config.get("rms_norm_eps", EPS.get(family, 1e-6))),
        rope=_rope(family, config),
        window=int(config["max_position_embeddings"]),
        sliding=_sliding(family, config, layers),
        qkv_bias=family == "qwen2" or bias,
        o_bias=family != "qwen2" and bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
        qk_norm=QK_NORM.get(family, "none"),
        clip_qkv=config.get("clip_qkv"),
        tied_head=bool(config.get("tie_word_embeddings", TIED.get(family, False))),
        moe=_moe(family, config, layers),
    )


def _rope(family: str, config: Mapping[str, Any]) -> Rope:
    # newer configs gather everything in rope_parameters, older ones keep theta beside rope_scaling
    facts = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind: Any = facts.get("rope_type") or facts.get("type") or "default"
    if kind not in ROPE_KINDS:
        raise ModelError(f"RoPE scaling {kind!r} is not served; these are: {', '.join(ROPE_KINDS)}")
    if (share := facts.get("partial_rotary_factor", config.get("partial_rotary_factor"))) not in (
        None,
        1.0,
    ):
        raise ModelError(f"partial_rotary_factor {share} is not served; the families here turn all")
    window = int(config["max_position_embeddings"])
    original = int(
        config.get("original_max_position_embeddings")
        or facts.get("original_max_position_embeddings")
        or window
    )
    return Rope(
        theta=float(facts.get("rope_theta") or config.get("rope_theta") or THETA.get(family, 1e4)),
        kind=kind,
        factor=float(facts.get("factor") or window / original),
        original_window=original,
        low_freq_factor=float(facts.get("low_freq_factor", 1.0)),
        high_freq_factor=float(facts.get("high_freq_factor", 4.0)),
        beta_fast=float(facts.get("beta_fast") or 32.0),
        beta_slow=float(facts.get("beta_slow") or 1.0),
        attention_factor=facts.get("attention_factor"),
        mscale=facts.get("mscale"),
        mscale_all_dim=facts.get("mscale_all_dim"),
        truncate=bool(facts.get("truncate", True)),
        divisors=tuple(facts.get("divisors", ())),
    )


def _sliding(family: str, config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    window = config.get("sliding_window")
    if family in ("llama", "olmoe") or window is None:
        return (None,) * layers
    if family.startswith("qwen"):
        if not config.get("use_sliding_window", False):
            return (None,) * layers
        kinds = config.get("layer_types")
        if kinds is not None and family != "qwen3_moe":
            return tuple(window if kind == "sliding_attention" else None for kind in kinds)
        if family == "qwen3_moe":
            return (int(window),) * layers
        first = int(config.get("max_window_layers", layers))
        return tuple(int(window) if layer >= first else None for layer in range(layers))
    return (int(window),) * layers


def _moe(family: str, config: Mapping[str, Any], layers: int) -> Moe | None:
    if family == "mixtral":
        return Moe(
            int(config["num_local_experts"]), int(config["num_experts_per_tok"]),
            int(config["intermediate_size"]), True, (True,) * layers,
        )  # fmt: skip
    if family == "olmoe":
        return Moe(
            int(config["num_experts"]), int(config["num_experts_per_tok"]),
            int(config["intermediate_size"]), bool(config.get("norm_topk_prob", False)),
            (True,) * layers,
        )  # fmt: skip
    if family == "qwen3_moe":
        dense = set(config.get("mlp_only_layers") or ())
        step = int(config.get("decoder_sparse_step", 1))
        count = int(config.get("num_experts") or config["num_local_experts"])
        return Moe(
            count, int(config["num_experts_per_tok"]), int(config["moe_intermediate_size"]),
            bool(config.get("norm_topk_prob", False)),
            tuple(i not in dense and count > 0 and (i + 1) % step == 0 for i in range(layers)),
        )  # fmt: skip
    return None
