"""The teacher's text: what the CPU engine in float32 says, greedily, on twenty prompts.

`python -m tests.gpu.teacher` writes it anew (minutes). 512 tokens each; an end token does not end
it, so that every prompt gives as many.
"""

import json
import os
import sys
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "data" / "teacher_smollm2.json"
MODEL = "smollm2-135m-instruct"
TOKENS = 512
PROMPTS = (
    "Explain why the sky is blue to a child.",
    "Write a short story about a lighthouse keeper who finds a map.",
    "List ten uses of a paper clip and say why each works.",
    "What is 17 times 24? Show every step.",
    "Describe how a bill becomes a law.",
    "Translate into French: The cat sleeps on the warm stone.",
    "Write a Python function that returns the prime numbers below n.",
    "Compare bicycles and cars for a trip of five kilometres.",
    "Who was Ada Lovelace and what did she do?",
    "Give me a recipe for lentil soup.",
    "Summarise the water cycle in one paragraph, then in one sentence.",
    "Write a polite letter that declines an invitation.",
    "What happens inside a star when it runs out of hydrogen?",
    "Make a table of the planets with their distance from the sun.",
    "Explain recursion with an example from daily life.",
    "Argue for and against homework.",
    "A train leaves at 9:40 and arrives at 13:05. How long does it travel?",
    "Write a poem of three stanzas about rain on a tin roof.",
    "How do vaccines work?",
    "Plan a week of exercise for somebody who sits all day.",
)


def load() -> list[tuple[list[int], list[int]]]:
    """(prompt ids, text ids) of each prompt."""
    rows = json.loads(FILE.read_text())["rows"]
    return [(row["prompt"], row["text"]) for row in rows]


def main() -> None:
    from workbench.bench.ours import Ours
    from workbench.engine.protocols import Until

    ours = Ours.load(MODEL, "as loaded", "fp32", pages=900, backend="cpu", max_rows=20)
    tokenizer = ours.model.tokenizer
    prompts = [tokenizer.chat([{"role": "user", "content": text}]) for text in PROMPTS]
    request = ours.new_request()
    branches = [ours.wait(ours.engine.open(ids, request=request)) for ids in prompts]
    told = ours.wait(ours.engine.decode(branches, until=Until(max_tokens=TOKENS, eos=False)))
    rows = [
        {"prompt": list(prompt), "text": list(branch.tokens[len(prompt) :])}
        for prompt, branch in zip(prompts, branches, strict=True)
    ]
    assert len(told) == len(rows) and all(len(row["text"]) == TOKENS for row in rows)
    FILE.write_text(
        "{" + f'"model": "{MODEL}", "by": "cpu fp32, greedy", "rows": [\n'
        + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]}\n"
    )  # fmt: skip
    ours.close()
    sys.stderr.write(f"{FILE}: {os.path.getsize(FILE)} bytes\n")


if __name__ == "__main__":
    main()
