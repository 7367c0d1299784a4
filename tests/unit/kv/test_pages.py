"""Pages are free, held or cached, and the audit says in a sentence when they are not."""

import pytest

from workbench.kv.pages import NowCached, NowFree, PageTable, Reserved, Short, StillHeld


def test_a_page_goes_from_free_to_held_to_free() -> None:
    table = PageTable(3)
    assert table.reserve(2) == Reserved((0, 1))
    assert table.reserve(2) == Short(1)
    assert (table.free, table.held, table.cached) == (1, 2, 0)
    assert table.share(0) == 2
    assert table.release(0) == StillHeld(1)
    assert table.release(0) == NowFree(unpinned=False)
    assert table.reserve(2) == Reserved((0, 2))
    assert table.peak == 3


def test_a_kept_page_is_cached_when_its_last_holder_leaves() -> None:
    table = PageTable(2)
    table.reserve(1)
    table.keep(0)
    table.fill(0, 4)
    assert table.resident == 4
    assert table.release(0) == NowCached()
    assert (table.free, table.held, table.cached, table.resident) == (1, 0, 1, 0)
    assert table.share(0) == 1
    assert table.resident == 4
    table.release(0)
    assert table.forget(0) == NowFree(unpinned=False)
    assert table.free == 2


def test_a_pin_goes_with_its_page() -> None:
    table = PageTable(1)
    table.reserve(1)
    table.pin(0, True)
    assert table.release(0) == NowFree(unpinned=True)
    assert not table.pinned


def test_the_audit_names_the_page_and_who_holds_it() -> None:
    table = PageTable(4)
    table.reserve(2)
    assert table.audit({7: [0], 8: [1]}, []) is None
    fault = table.audit({7: [0], 8: [1, 0]}, [])
    assert fault == "page 0 counts 1 references, but branches [7, 8] hold it"
    assert "prefix cache" in (table.audit({7: [0], 8: [1]}, [1]) or "")
    table.refcount[1] = 0
    assert "not on the free list" in (table.audit({7: [0]}, []) or "")


def test_the_audit_counts_resident_tokens() -> None:
    table = PageTable(2)
    table.reserve(1)
    table.fill(0, 3)
    assert table.audit({1: [0]}, []) is None
    table.used[0] = 2
    assert table.audit({1: [0]}, []) == "3 resident tokens are counted, the pages hold 2"


def test_releasing_twice_is_a_fault_of_ours() -> None:
    table = PageTable(1)
    table.reserve(1)
    table.release(0)
    with pytest.raises(AssertionError, match="more often than it was taken"):
        table.release(0)


def test_a_claimed_page_is_taken_out_of_turn() -> None:
    table = PageTable(5)
    assert table.peek(3) == [0, 1, 2] and table.peek(9) == [0, 1, 2, 3, 4]
    assert table.claim(1) and not table.claim(1)
    assert (table.free, table.held, table.turns[1]) == (4, 1, 1)
    assert table.peek(2) == [0, 2]
    table.release(1)  # before the heap has come to it
    assert table.peek(2) == [0, 1] and table.free == 5
    assert table.claim(0) and table.reserve(2) == Reserved((1, 2))
    for page in (0, 2, 1):
        table.release(page)
    assert table.peek(5) == [0, 1, 2, 3, 4] and table.turns[:3] == [1, 2, 1]
    assert table.audit({}, ()) is None
