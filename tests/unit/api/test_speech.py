"""What a choice says is a function of its bytes, however they are cut into tokens."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from workbench.api.speech import Called, Piece, Speech, Text

CALL = '<tool_call>\n{"name":"f","arguments":{"a":1}}\n</tool_call>'


def heard(raw: bytes, cuts: list[int], stops: tuple[str, ...] = (), calls: bool = False) -> Speech:
    speech = Speech(stops, calls)
    pieces: list[Piece] = []
    bounds = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    for a, b in pairwise(bounds):
        pieces += speech.push(raw[a:b])
    pieces += speech.end()
    assert "".join(p.text for p in pieces if isinstance(p, Text)) == speech.text
    assert sum(isinstance(p, Called) for p in pieces) == speech.called
    return speech


@given(st.text("abé<s>€", max_size=30), st.lists(st.integers(0, 99), max_size=12))
def test_stop_texts_are_cut_off_wherever_tokens_end(text: str, cuts: list[int]) -> None:
    stops = ("<s>", "ab")
    speech = heard(text.encode(), cuts, stops)
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    if not places:
        assert speech.text == text and not speech.stopped
        return
    assert speech.stopped and not any(stop in speech.text for stop in stops)
    assert text.startswith(speech.text)


@given(st.lists(st.integers(0, 999), max_size=30))
def test_calls_are_found_wherever_tokens_end(cuts: list[int]) -> None:
    speech = heard(f"First.\n{CALL}\n{CALL}".encode(), cuts, ("zz",), calls=True)
    assert speech.text == "First.\n" and speech.called == 2


def test_a_call_is_told_whole_with_its_index() -> None:
    speech = Speech((), calls=True)
    pieces = [piece for byte in f"{CALL}\n{CALL}".encode() for piece in speech.push(bytes([byte]))]
    assert pieces == [Called(0, "f", '{"a":1}'), Called(1, "f", '{"a":1}')]


def test_a_call_that_was_cut_off_is_not_told() -> None:
    assert heard(CALL[:-3].encode(), [], calls=True).called == 0
    assert heard(CALL[:-3].encode(), [], calls=True).text == ""


def test_what_is_no_call_stays_text() -> None:
    text = "<tool_call>nonsense</tool_call>"
    assert heard(text.encode(), [], calls=True).text == text
    assert heard(CALL.encode(), []).text == CALL  # nobody offered tools


def test_half_a_character_waits_for_the_rest() -> None:
    speech = Speech()
    assert speech.push("é".encode()[:1]) == []
    assert speech.push("é".encode()[1:]) == [Text("é")]
    assert speech.push(b"\xe2\x82") == [] and speech.end() == [Text("\ufffd")]
