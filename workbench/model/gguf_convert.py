"""GGUF metadata in Hugging Face's terms: config.json and tokenizer.json as plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import ModelError

# general.architecture -> what config.json would name
ARCHITECTURES: Mapping[str, str] = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3moe": "Qwen3MoeForCausalLM",
    "olmoe": "OlmoeForCausalLM",
}
# llama.cpp's converter interleaves the halves of each head's Q and K rows for these
PERMUTED = frozenset({"LlamaForCausalLM", "MixtralForCausalLM", "MistralForCausalLM"})

# regular expressions of the pre-tokenizers that GGUF names, by `tokenizer.ggml.pre`
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
SPLITS: Mapping[str, str] = {
    "gpt-2": GPT2_SPLIT,
    "olmo": GPT2_SPLIT,
    "llama-bpe": LLAMA3_SPLIT,
    "llama3": LLAMA3_SPLIT,
    "qwen2": QWEN2_SPLIT,
}
CONTROL, USER_DEFINED = 3, 4  # token types of the format


def config_of(
    meta: Mapping[str, Any], tensors: Mapping[str, Any], vocabulary: int
) -> dict[str, Any]:
    """A config.json that `config.shape_of` reads."""
    arch = str(meta.get("general.architecture"))
    if arch not in ARCHITECTURES:
        raise ModelError(
            f"GGUF architecture {arch!r} is not served; "
            f"these are: {', '.join(sorted(ARCHITECTURES))}"
        )

    def get(key: str, default: Any = None) -> Any:
        return meta.get(f"{arch}.{key}", default)

    def need(key: str) -> Any:
        value = get(key)
        if value is None:
            raise ModelError(f"the GGUF file lacks {arch}.{key}; convert the model again")
        return value

    experts = int(get("expert_count", 0) or 0)
    named = ARCHITECTURES[arch]
    if arch == "llama" and experts:
        named = "MixtralForCausalLM"
    elif arch == "llama" and get("attention.sliding_window"):
        named = "MistralForCausalLM"
    heads = int(need("attention.head_count"))
    width = int(need("embedding_length"))
    config = {
        "architectures": [named],
        "vocab_size": vocabulary or int(tensors["token_embd.weight"][1][0]),
        "hidden_size": width,
        "num_hidden_layers": int(need("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(get("attention.head_count_kv", heads)),
        "head_dim": int(get("attention.key_length", width // heads)),
        "intermediate_size": int(
            get("feed_forward_length", 0) or get("expert_feed_forward_length")
        ),
        "rms_norm_eps": float(need("attention.layer_norm_rms_epsilon")),
        "max_position_embeddings": int(need("context_length")),
        "sliding_window": get("attention.sliding_window"),
        "rope_parameters": _rope(get),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": named != "Qwen2ForCausalLM" and "blk.0.attn_q.bias" in tensors,
        "clip_qkv": get("attention.clamp_kqv"),
    }
    if experts:
        config |= _experts(named, get, experts)
    return config


def _rope(get: Any) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_theta": float(get("rope.freq_base", 10000.0))}
    kind = get("rope.scaling.type", "none")
    if kind in ("linear", "yarn"):
        rope |= {"rope_type": kind, "factor": float(get("rope.scaling.factor", 1.0))}
        if (original := get("rope.scaling.original_context_length")) is not None:
            rope["original_max_position_embeddings"] = int(original)
    elif kind not in ("none", None):
        raise ModelError(f"GGUF RoPE scaling {kind!r} is not served; none, linear and yarn are")
    return rope


def _experts(named: str, get: Any, count: int) -> dict[str, Any]:
    used = int(get("expert_used_count"))
    if named == "MixtralForCausalLM":
        return {"num_local_experts": count, "num_experts_per_tok": used}
    return {
        "num_experts": count,
        "num_experts_per_tok": used,
        "moe_intermediate_size": int(get("expert_feed_forward_length", 0) or 0),
        "norm_topk_prob": named == "Qwen3MoeForCausalLM",
    }


def tokenizer_of(
    meta: Mapping[str, Any],
    vocabulary: Sequence[str],
    merges: Sequence[str],
    types: Sequence[int],
    scores: Sequence[float],
) -> dict[str, Any]:
    """{"tokenizer": tokenizer.json as text, "config": fields of tokenizer_config.json}."""
    if not vocabulary:
        raise ModelError("the GGUF file has no tokenizer; convert the model with its vocabulary")
    model = meta.get("tokenizer.ggml.model")
    if model == "gpt2":
        text = _byte_level(meta.get("tokenizer.ggml.pre", "gpt-2"), vocabulary, merges, types)
    elif model == "llama":
        text = _sentencepiece(meta, vocabulary, types, scores)
    else:
        raise ModelError(f"GGUF tokenizer {model!r} is not served; 'gpt2' and 'llama' are")

    def token(key: str) -> str | None:
        index = meta.get(f"tokenizer.ggml.{key}_token_id")
        return vocabulary[index] if index is not None and index < len(vocabulary) else None

    return {
        "tokenizer": text,
        "config": {
            "chat_template": meta.get("tokenizer.chat_template"),
            "bos_token": token("bos"),
            "eos_token": token("eos"),
            "add_bos_token": bool(meta.get("tokenizer.ggml.add_bos_token", model == "llama")),
        },
    }


def _byte_level(
    pre: str, vocabulary: Sequence[str], merges: Sequence[str], types: Sequence[int]
) -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    pairs = [(left, right) for left, right in (merge.split(" ", 1) for merge in merges)]
    ids = {text: index for index, text in enumerate(vocabulary)}
    try:
        tokenizer = Tokenizer(models.BPE(vocab=ids, merges=pairs))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"the GGUF file's merges do not fit its tokens: {error}") from error
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if pre in ("smollm", "starcoder", "refact", "command-r"):
        splits = [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    elif pre in SPLITS:
        splits = [pre_tokenizers.Split(Regex(SPLITS[pre]), "isolated"), level]
    else:
        raise ModelError(
            f"GGUF pre-tokenizer {pre!r} is not served; these are: smollm, {', '.join(SPLITS)}; "
            "use the checkpoint's own folder with its tokenizer.json"
        )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    _add_special(tokenizer, vocabulary, types)
    return str(tokenizer.to_str())


def _sentencepiece(
    meta: Mapping[str, Any],
    vocabulary: Sequence[str],
    types: Sequence[int],
    scores: Sequence[float],
) -> str:
    """SentencePiece BPE: merges are recovered from the scores (higher first), bytes as fallback."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    ids = {text: index for index, text in enumerate(vocabulary)}
    ranked: list[tuple[float, str, str]] = []
    for text, index in ids.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in ids and right in ids:
                ranked.append((scores[index] if scores else -float(index), left, right))
    ranked.sort(key=lambda merge: (-merge[0], ids[merge[1]], ids[merge[2]]))
    unknown = vocabulary[int(meta.get("tokenizer.ggml.unknown_token_id", 0))]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=ids,
            merges=[(left, right) for _, left, right in ranked],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = meta.get("tokenizer.ggml.add_space_prefix", True)
    spaces = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*spaces, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    _add_special(tokenizer, vocabulary, types)
    return str(tokenizer.to_str())


def _add_special(tokenizer: Any, vocabulary: Sequence[str], types: Sequence[int]) -> None:
    from tokenizers import AddedToken

    for kind, special in ((CONTROL, True), (USER_DEFINED, False)):
        added = [
            AddedToken(text, special=special, normalized=False)
            for text, its in zip(vocabulary, types, strict=False)
            if its == kind
        ]
        if added:
            (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
