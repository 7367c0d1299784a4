"""The embedded model against transformers on the same file: tokenizer, logits, text, adapter."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.model.nets import Paged, oracle
from workbench.forward import Override
from workbench.model import Model, Opened, catalogue, load_model, open_model
from workbench.ops.packing import can_prepack

pytestmark = pytest.mark.model

QUESTION = [{"role": "user", "content": "Why is the sky blue? Answer in three sentences."}]
TEXTS = [
    "Hello world, it's 2026!  Two  spaces\n\n\tand a tab. x=1234567890",
    "naïve café — 東京 🙂 Ωμέγα",
    "<|im_start|>user\nhi<|im_end|>\n",
    "def f(x):\n    return x**2  # comment\n",
    "",
]


@pytest.fixture(scope="module")
def opened() -> Opened:
    return open_model()


@pytest.fixture(scope="module")
def ours(opened: Opened) -> Model:
    return load_model(opened, dtype="fp32", backend="cpu")


@pytest.fixture(scope="module")
def theirs(opened: Opened) -> Any:
    """transformers' own reading of the GGUF file: names, permutation, dequantisation."""
    from transformers import AutoModelForCausalLM

    path = Path(opened.source.path)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    return model.eval()


def greedy(model: Any, ids: list[int], n: int, override: Override | None = None) -> list[int]:
    paged = Paged(model, 16)
    row = paged.row([*ids, *[0] * n], override or Override())
    logits = paged.step([(row, len(ids))], logit_rows=torch.tensor([len(ids) - 1])).logits
    out: list[int] = []
    for _ in range(n):
        out.append(int(logits.argmax()))
        row.ids[row.stored] = out[-1]
        logits = paged.step([(row, 1)]).logits
    return out


def test_sixty_four_greedy_tokens_equal_transformers(ours: Model, theirs: Any) -> None:
    ids = ours.tokenizer.encode("The history of the steam engine is longer than most think.")
    want = theirs.generate(torch.tensor([ids]), max_new_tokens=64, do_sample=False)
    assert want.shape[1] == len(ids) + 64  # no end token cut it short
    assert greedy(ours, ids, 64) == want[0, len(ids) :].tolist()


def test_logits_equal_transformers(ours: Model, theirs: Any) -> None:
    ids = ours.tokenizer.encode(TEXTS[0] + TEXTS[1])
    got = Paged(ours, 7).all_logits(ids, [len(ids) - 3, 1, 2])
    assert (got - oracle(theirs, ids)).abs().max() <= 2e-3  # logits reach 40, over 30 layers


def test_the_tokenizer_equals_transformers(ours: Model, opened: Opened) -> None:
    from transformers import AutoTokenizer

    path = Path(opened.source.path)
    want = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer = ours.tokenizer
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids == want.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    chat = want.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    assert tokenizer.chat_text(QUESTION) == chat
    assert tokenizer.vocab_size == opened.shape.vocabulary == 49152
    assert tokenizer.eos == {tokenizer.encode("<|im_end|>")[0]}


@pytest.mark.parametrize("weights", ["bf16 prepacked", "int4"])
def test_the_fast_forms_stay_near_fp32(weights: str, ours: Model, opened: Opened) -> None:
    if not can_prepack():
        pytest.skip("oneDNN has no bf16 on this CPU")
    fast = load_model(opened, weights=weights, backend="cpu")
    assert fast.name == f"cpu {weights}"
    ids = ours.tokenizer.chat(QUESTION) + ours.tokenizer.encode(TEXTS[0])
    steps = [len(ids) - 12, *[1] * 12]
    got, want = (Paged(m, 16).all_logits(ids, steps) for m in (fast, ours))
    assert (got - want).pow(2).mean().sqrt() <= 0.25  # of a spread of 6.8
    assert (got.argmax(-1) == want.argmax(-1)).float().mean() >= 0.85


@pytest.mark.slow
def test_the_packaged_adapter_equals_peft(ours: Model, theirs: Any) -> None:
    from peft import PeftModel

    ours.load_adapter("tim-pilot")
    adapted = PeftModel.from_pretrained(theirs, catalogue.adapter_path("tim-pilot")).eval()
    ids = ours.tokenizer.chat(QUESTION) + ours.tokenizer.encode('{"thought":"3xx from 312: 4821')
    paged = Paged(ours, 16)
    row = paged.row(ids, Override(adapter="tim-pilot"))
    got = torch.cat([paged.step([(row, n)]).logits for n in (len(ids) - 2, 1, 1)])
    want = oracle(adapted, ids)
    plain = Paged(ours, 16).all_logits(ids, [len(ids)])
    assert (want - plain).abs().max() > 1.0
    assert (got - want).abs().max() <= 2e-3
