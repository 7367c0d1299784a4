"""Whatever is wrong with what the command line is given: exit 1 or 2, one line that says what, and
no traceback. On a tiny net with a token a byte, in a folder as checkpoints come."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.model import nets
from workbench.cli import main as cli
from workbench.cli import run as run_verb
from workbench.events import ToolReturned
from workbench.session.context import RunContext
from workbench.tools import python_function
from workbench.trace import Trace
from workbench.trace.files import CHUNK, scan

Run = Callable[..., tuple[int, str, str]]
FACTS = {"vocab_size": 259, "max_position_embeddings": 1024}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good net, broken ones, and files that hold the wrong thing."""
    folder = tmp_path_factory.mktemp("bad input")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(nets.NETS, "bytes", ("Llama", FACTS))
        nets.make("bytes", folder / "net")
    save_byte_tokenizer(folder / "net")
    for name in ("half", "config", "family", "shape"):
        shutil.copytree(folder / "net", folder / name)
    weights = (folder / "half" / "model.safetensors").read_bytes()
    (folder / "half" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    (folder / "config" / "config.json").write_text('{"model_type": "lla')
    change(folder / "family", architectures=["MambaForCausalLM"], model_type="mamba")
    change(folder / "shape", intermediate_size=50)
    (folder / "none").mkdir()
    (folder / "half.gguf").write_bytes(b"GGUF\3\0\0\0")
    (folder / "junk.wbt").write_bytes(b"no trace at all")
    (folder / "list.json").write_text("[1, 2]")
    (folder / "cut.json").write_text('{"a": ')
    (folder / "ids.json").write_text("[5, 99999]")
    return folder


def change(folder: Path, **facts: Any) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **facts}))


def save_byte_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    specials = {"<pad>": 0, "<s>": 1, "</s>": 2}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {character: 3 + n for n, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=specials | tokens, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call a verb from that folder: (exit status, standard output, standard error)."""
    monkeypatch.chdir(here)

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            status = cli.main(arguments)
        except SystemExit as ended:  # argparse's way
            status = int(ended.code or 0)
        return status, *capsys.readouterr()

    return call


def complaint(status: int, out: str, err: str) -> str:
    """The one line of a failure; progress may stand before it."""
    assert status in (1, 2)
    assert "Traceback" not in err and out == ""
    *before, last = err.splitlines()
    assert last.startswith("workbench ")
    assert status == 2 or not any(line.startswith("workbench ") for line in before)
    return last


CHAIN = ("--model=net", "--strategy=chain")
CASES: dict[str, tuple[tuple[str, ...], str]] = {
    "an empty prompt": (("run", "", *CHAIN), "prompt is empty"),
    "a blank prompt": (("run", " \n ", *CHAIN), "prompt is empty"),
    "a prompt over the window": (("run", "x" * 40, *CHAIN, "--window=16"), "the window 16"),
    "a prompt over the net's window": (("run", "x" * 2000, *CHAIN), "the window 1024"),
    "no window": (("run", "x", *CHAIN, "--window=0"), "at least 1 token"),
    "an unknown model": (("run", "x", "--model=smollm-135m"), "smollm2-135m-instruct"),
    "no such folder": (("run", "x", "--model=./nowhere"), "nothing is there"),
    "an empty folder": (("run", "x", "--model=none"), "config.json"),
    "a cut config": (("run", "x", "--model=config"), "no readable JSON"),
    "another family": (("run", "x", "--model=family"), "MambaForCausalLM is not served"),
    "a wrong shape": (("run", "x", "--model=shape"), "50"),
    "half a safetensors file": (("run", "x", "--model=half"), "no complete safetensors file"),
    "half a GGUF file": (("run", "x", "--model=half.gguf"), "no complete GGUF file"),
    "an unknown backend": (("run", "x", *CHAIN, "--backend=tpu"), "torch-cuda"),
    "an unknown dtype": (("run", "x", *CHAIN, "--dtype=fp4"), "bf16"),
    "unknown weights": (("run", "x", *CHAIN, "--weights=int1"), "int4"),
    "an unknown strategy": (("run", "x", "--model=net", "--strategy=tmi"), "did you mean tim"),
    "an unknown param": (("run", "x", "--model=net", "--param=treshold=1"), "threshold"),
    "a param of another type": (("run", "x", "--model=net", "--param=threshold=a"), "int or none"),
    "a param that is no choice": (("run", "x", "--model=net", "--param=mode=a"), "rotate"),
    "a param out of range": (("run", "x", "--model=net", "--param=threshold=-1"), "at least 0"),
    "no voters": (("run", "x", "--model=net", "--strategy=vote", "--param=n=0"), "at least 1"),
    "below zero degrees": (("run", "x", *CHAIN, "--param=temperature=-1"), "temperature"),
    "an unknown budget": (("run", "x", *CHAIN, "--budget=tokens=1"), "sampled, computed"),
    "a budget that is no number": (("run", "x", *CHAIN, "--budget=sampled=a"), "a number"),
    "an unknown task": (("eval", "--model=net", "--task=chian"), "did you mean chain"),
    "a level below one": (("eval", "--model=net", "--level=-3"), "level of at least 1"),
    "no problems": (("eval", "--model=net", "--n=0"), "--n: at least 1"),
    "a pool for less than the prompt": (("run", "x" * 40, *CHAIN, "--pages=1"), "the pool has 1"),
    "a pool that runs out": (("run", "x" * 40, *CHAIN, "--pages=7"), "the pool has 7"),
    "a pool of nothing": (("run", "x", *CHAIN, "--pages=0"), "at least 1"),
    "pages of nothing": (("run", "x", *CHAIN, "--page-size=0"), "at least 1"),
    "an unknown tool": (("run", "x", "--model=net", "--tools=hammer"), "calculator"),
    "no table": (("run", "x", "--model=net", "--tools=lookup:no.json"), "no.json"),
    "a table that is a list": (("run", "x", "--model=net", "--tools=lookup:list.json"), "object"),
    "a cut table": (("run", "x", "--model=net", "--tools=lookup:cut.json"), "cut.json"),
    "no folder to search": (("run", "x", "--model=net", "--tools=search:no"), "a folder of texts"),
    "junk for a trace": (("trace", "info", "junk.wbt"), "wanted a workbench trace"),
    "junk to replay": (("trace", "replay", "junk.wbt"), "wanted a workbench trace"),
    "junk to export": (("trace", "export", "junk.wbt", "--to=html", "--out=a"), "wanted a work"),
    "no trace": (("trace", "info", "no.wbt"), "is no file"),
    "a folder for a trace": (("trace", "info", "net"), "is no file"),
    "nothing to resume": (("run", "--resume=no.wbt", *CHAIN), "is no file"),
    "junk to resume": (("run", "--resume=junk.wbt", *CHAIN), "wanted a workbench trace"),
    "a report without a trace": (("run", "x", *CHAIN, "--report=a.html"), "add --trace"),
    "a token that the net lacks": (("logits", "--model=net", "--ids=ids.json", "--out=a"), "99999"),
    "an unknown bench": (("bench", "nothing"), "invalid choice"),
    "an unknown recipe": (("train", "nothing"), "did you mean"),
}


@pytest.mark.parametrize("case", CASES)
def test_says_what_is_wrong_in_one_line(run: Run, case: str) -> None:
    arguments, words = CASES[case]
    assert words in complaint(*run(*arguments))


def tree(run: Run, tool: Any, monkeypatch: pytest.MonkeyPatch, seed: int) -> tuple[int, str, str]:
    """A random tree under the grammar that may call this tool."""
    monkeypatch.setattr(run_verb, "tools_of", lambda names: [tool])
    return run(
        "run", "x", "--model=net", "--param=temperature=1", "--param=max_text=3",
        "--param=max_depth=2", f"--seed={seed}", "--budget=sampled=300", "--trace=tree.wbt",
        "--json",
    )  # fmt: skip


def boom(key: str) -> str:
    """Fails."""
    raise RuntimeError(f"no luck with {key}")


def hang(key: str) -> str:
    """Never answers."""
    time.sleep(60)
    return key


@pytest.mark.parametrize(("function", "said"), [(boom, "no luck"), (hang, "no answer within")])
def test_a_tool_that_fails_is_a_result_that_the_tree_reads(
    run: Run, monkeypatch: pytest.MonkeyPatch, function: Any, said: str
) -> None:
    monkeypatch.setitem(RunContext.__init__.__kwdefaults__, "tool_timeout", 0.05)
    tool = python_function(function, name="ask")
    for seed in range(8):
        status, out, err = tree(run, tool, monkeypatch, seed)
        assert status == 0, err
        assert json.loads(out)["finish"] in ("stop", "budget")
        results = list(Trace.open(Path("tree.wbt")).events(ToolReturned))
        if results:  # the random walk has called it
            break
    assert results and not any(e.ok for e in results)
    assert all(said in json.loads(e.result)["error"] for e in results)


def test_a_malformed_schema_names_its_place(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = python_function(boom)
    wrong = {**tool.parameters, "properties": {"key": {"type": "strnig"}}}
    object.__setattr__(tool, "parameters", wrong)
    said = complaint(*tree(run, tool, monkeypatch, 0))
    assert "JSON schema at #/properties/key" in said


def test_a_malformed_tree_is_a_failure(run: Run) -> None:
    status, _, err = run("run", "x", "--model=net", "--param=grammar=false")
    assert "is wanted" in complaint(status, "", err)


def test_a_full_window_ends_a_run_in_peace(run: Run) -> None:
    status, out, err = run("run", "x", *CHAIN, "--window=90", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert (found["finish"], found["kv"]["peak_tokens"]) == ("length", 89)


def test_a_cut_trace_opens_up_to_its_last_whole_chunk(run: Run) -> None:
    status, _, err = run("run", "x", *CHAIN, "--param=max_tokens=30", "--trace=whole.wbt")
    assert status == 0, err
    data, cut = Path("whole.wbt").read_bytes(), Path("cut.wbt")
    header = scan(Path("whole.wbt")).places[0].offset - CHUNK.size
    for size in (len(data) - 1, header + 3, header):
        cut.write_bytes(data[:size])
        status, out, err = run("trace", "info", "cut.wbt", "--json")
        assert status == 0, err
        info = json.loads(out)
        assert info["complete"] is False
        assert info["recovered_bytes"] + info["lost_bytes"] == size
    for size in (header - 1, 40, 0):
        cut.write_bytes(data[:size])
        assert "cut.wbt" in complaint(*run("trace", "info", "cut.wbt"))
