"""Tokenizers out of GGUF files, bytes of tokens, chat templates."""

from typing import Any

import pytest

from workbench.model import ModelError
from workbench.model.gguf_convert import tokenizer_of
from workbench.model.tokenizer import ModelTokenizer

TEXT = (
    "the quick brown fox jumps over the lazy dog and the dog sleeps while the fox runs on "
    "through the brown woods where other foxes and other dogs run and sleep and jump "
) * 4
PROBES = ["the fox runs", "  two spaces", "dogs sleeping, jumping!", "naïve 東 é\n", ""]


def trained() -> tuple[Any, list[str], list[float], list[int]]:
    """A SentencePiece-like BPE, and what a GGUF file would hold of it."""
    from tokenizers import SentencePieceBPETokenizer

    theirs = SentencePieceBPETokenizer()
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    theirs.train_from_iterator([TEXT], vocab_size=380, special_tokens=specials, show_progress=False)
    vocabulary = [theirs.id_to_token(i) for i in range(theirs.get_vocab_size())]
    # a merge's token follows in the order of training: its score is minus its place
    scores = [-float(i) for i in range(len(vocabulary))]
    types = [2, 3, 3] + [6] * 256 + [1] * (len(vocabulary) - 259)
    return theirs, vocabulary, scores, types


def converted(**meta: Any) -> tuple[Any, ModelTokenizer]:
    theirs, vocabulary, scores, types = trained()
    facts = {f"tokenizer.ggml.{key}": value for key, value in meta.items()}
    facts |= {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    found = tokenizer_of(facts, vocabulary, [], types, scores)
    return theirs, ModelTokenizer(found["tokenizer"], found["config"])


def test_merges_are_recovered_from_scores() -> None:
    theirs, ours = converted()
    for text in ("the fox runs", "dogs sleep and the fox jumps over other dogs", "woods where"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
    assert ours.eos == {2}


@pytest.mark.parametrize("text", PROBES)
def test_bytes_of_tokens_are_the_texts_bytes(text: str) -> None:
    _, ours = converted(add_space_prefix=False)
    ids = ours.encode(text)
    assert b"".join(map(ours.token_bytes, ids)) == text.encode()
    assert ours.decode(ids) == text


def tokenizer(**config: Any) -> ModelTokenizer:
    found = trained()[0].to_str()
    return ModelTokenizer(found, config)


def test_a_template_sees_messages_and_special_tokens() -> None:
    ours = tokenizer(
        bos_token={"content": "<s>"},
        eos_token="</s>",
        chat_template="{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}"
        "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
    )
    messages = [{"role": "user", "content": "the fox"}]
    assert ours.chat_text(messages) == "<s>user: the fox</s>assistant:"
    assert ours.chat_text(messages, False) == "<s>user: the fox</s>"
    assert ours.chat(messages)[0] == 1
    assert ours.eos == {2}


def test_a_named_template_is_found() -> None:
    ours = tokenizer(chat_template=[{"name": "default", "template": "hi"}])
    assert ours.chat_text([]) == "hi"


def test_a_base_model_reads_the_bare_turns() -> None:
    turns = [{"role": "system", "content": "the dog"}, {"role": "user", "content": "the fox"}]
    assert tokenizer().chat_text(turns) == "the dog\n\nthe fox"


def test_bytes_without_a_decoder() -> None:
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"fox": 0, "▁dog": 1}, unk_token="fox")).to_str()
    assert [ModelTokenizer(words, {}).token_bytes(i) for i in (0, 1)] == [b"fox", b" dog"]


def test_what_a_template_refuses_is_said() -> None:
    ours = tokenizer(chat_template="{{ raise_exception('no system role') }}")
    with pytest.raises(ModelError, match="refused the messages: no system role"):
        ours.chat([])
    with pytest.raises(ModelError, match=r"tokenizer\.json is not readable"):
        ModelTokenizer("{", {})


def test_end_tokens_of_a_config_are_all_kept() -> None:
    assert tokenizer(eos_token_id=[2, 5], eos_token="</s>").eos == {2, 5}
    assert tokenizer(eos_token_id=7).eos == {7}


@pytest.mark.parametrize(
    ("meta", "says"),
    [
        ({"tokenizer.ggml.model": "bert"}, "GGUF tokenizer 'bert' is not served"),
        (
            {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "odd"},
            "pre-tokenizer 'odd' is not served.*smollm",
        ),
    ],
)
def test_an_unknown_tokenizer_is_refused(meta: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        tokenizer_of(meta, ["a", "b"], [], [1, 1], [])
    with pytest.raises(ModelError, match="has no tokenizer"):
        tokenizer_of(meta, [], [], [], [])
