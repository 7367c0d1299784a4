"""The answer in a free text."""

import re

_MARKED = re.compile(r"(?:final answer|answer)\s*(?:is)?\s*[:=]?\s*\**\s*([^\n]+)", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def extract_answer(text: str) -> str:
    """What stands in the last `\\boxed{…}`, else behind the last `answer`, else the last number,
    else the last line that is not blank."""
    boxed = _BOXED.findall(text)
    if boxed:
        return str(boxed[-1]).strip()
    marked = _MARKED.findall(text)
    if marked:
        return _tidy(str(marked[-1]))
    numbers = _NUMBER.findall(text)
    if numbers:
        return str(numbers[-1]).replace(",", "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _tidy(text: str) -> str:
    """A number alone where one ends the phrase: `= 12.` and `12` vote together."""
    numbers = _NUMBER.findall(text)
    return str(numbers[-1]).replace(",", "") if numbers else text.strip(" .*")
