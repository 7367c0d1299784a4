"""The radix tree: longest prefix, one tree a net, leaves evicted first."""

import random

from workbench.kv.prefix import Node, PrefixCache


def store(cache: PrefixCache, text: list[int], first_page: int, net: int = 0) -> list[Node]:
    node, nodes = cache.root(net), []
    for start in range(0, len(text), cache.page_size):
        key = tuple(text[start : start + cache.page_size])
        node = cache.extend(node, key, first_page + len(nodes)) or node.children[key]
        nodes.append(node)
    return nodes


def test_the_longest_prefix_in_whole_pages_is_found() -> None:
    cache = PrefixCache(2)
    store(cache, [1, 2, 3, 4, 5, 6], 10)
    assert cache.match(0, [1, 2, 3, 4, 9, 9]).pages == (10, 11)
    assert cache.match(0, [1, 2, 3]).pages == (10,)
    assert cache.match(0, [2, 1]).pages == ()
    assert cache.match(1, [1, 2]).pages == (), "another net's pages are never found"


def test_a_text_is_stored_once() -> None:
    cache = PrefixCache(1)
    (node,) = store(cache, [5], 0)
    assert cache.extend(cache.root(0), (5,), 1) is None
    assert cache.pages == {0}
    assert node.depth == 1


def test_the_longest_idle_leaf_goes_first() -> None:
    cache = PrefixCache(1)
    store(cache, [1, 2, 3], 0)
    store(cache, [1, 9], 3)  # page 3 holds nothing new for 1, page 4 holds 9
    for page in (2, 1, 4, 0):  # given back tail first
        cache.rest(page)
    assert cache.victims(9, lambda page: False) == [2, 1, 4, 0]
    assert cache.victims(2, lambda page: False) == [2, 1]
    assert cache.victims(9, lambda page: page == 1) == [2, 4], "a spared page spares its ancestors"
    cache.wake(2)
    assert cache.victims(9, lambda page: False) == [4], "a held page spares its ancestors"


def test_discarding_from_the_leaves_up_empties_the_tree() -> None:
    cache = PrefixCache(1)
    store(cache, [1, 2, 3], 0)
    assert cache.below(1) == [2, 1]
    for page in cache.below(0):
        cache.discard(page)
    assert cache.match(0, [1]).pages == ()
    assert not cache.pages


def test_a_path_of_thousands_of_pages_is_no_recursion() -> None:
    cache = PrefixCache(1)
    nodes = store(cache, list(range(5000)), 0)
    assert len(cache.below(0)) == 5000
    assert nodes[-1].ancestor(1) is nodes[0]


def test_a_page_that_came_to_rest_before_its_descendants_still_goes_after_them() -> None:
    cache = PrefixCache(1)
    store(cache, [1, 2, 3], 0)
    for page in (0, 1, 2):
        cache.rest(page)
    assert cache.victims(3, lambda page: False) == [2, 1, 0]
    assert cache.victims(-1, lambda page: False) == []


def test_an_idle_page_before_a_held_one_is_not_counted() -> None:
    """What `idle` promises, `victims` can give, whatever rests and wakes."""
    cache, rng = PrefixCache(1), random.Random(5)
    nodes, held = [cache.root(0)], set()
    for page in range(40):
        node = cache.extend(rng.choice(nodes), (page,), page)
        assert node is not None
        nodes.append(node)
        held.add(page)
    for _ in range(800):
        page = rng.randrange(40)
        if page in held:
            held.discard(page)
            cache.rest(page)
        elif page in cache.pages:
            held.add(page)
            cache.wake(page)
        assert cache.idle == len(cache.victims(99, lambda page: False))
        if rng.random() < 0.02 and (gone := cache.victims(1, lambda page: False)):
            cache.discard(gone[0])
    assert len(cache.pages) < 40
