"""Which pages hold which text: a radix tree whose digits are whole pages of token ids.

A path from a root spells a text; each node is the page that holds its last `page_size` tokens.
There is one root a *net* (a number that stands for an override), so pages made under one adapter
are never found by another. Pages that no branch holds are *idle*, and the longest idle is evicted
first.

Who holds a page mostly holds its ancestors too, and pages are given back tail first, so that most
of an idle page's descendants have been idle for longer. An edit may leave an idle page before one
that is held: it is *stuck*, and is not evicted before that one rests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


class Node:
    """One cached page: the text down to its end."""

    __slots__ = ("children", "depth", "key", "page", "parent")

    def __init__(self, parent: "Node | None", key: tuple[int, ...], page: int) -> None:
        self.parent = parent
        self.key = key
        self.page = page
        self.depth: int = parent.depth + 1 if parent else 0  # pages from the root to its end
        self.children: dict[tuple[int, ...], Node] = {}

    def ancestor(self, depth: int) -> "Node":
        node = self
        while node.depth > depth:
            assert node.parent is not None
            node = node.parent
        return node

    def subtree(self) -> list["Node"]:
        """Descendants first, itself last. A loop, since a path may be thousands of pages deep."""
        nodes = [self]
        for node in nodes:
            nodes.extend(node.children.values())
        return nodes[::-1]


@dataclass(frozen=True, slots=True)
class PrefixHandle:
    """Longest stored prefix of a text. Its pages may be evicted until somebody shares them."""

    node: Node
    pages: tuple[int, ...]


class PrefixCache:
    """The tree and the order in which idle pages would be evicted."""

    __slots__ = ("_idle", "_nodes", "_roots", "_stuck", "page_size")

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self._roots: dict[int, Node] = {}
        self._nodes: dict[int, Node] = {}  # page -> its node
        self._idle: dict[int, None] = {}  # pages, longest idle first
        self._stuck: set[int] = set()  # idle ones with a descendant that is held

    @property
    def pages(self) -> set[int]:
        return set(self._nodes)

    @property
    def idle(self) -> int:
        """Pages that can be evicted: idle, and all behind them too."""
        return len(self._idle) - len(self._stuck)

    def root(self, net: int) -> Node:
        return self._roots.setdefault(net, Node(None, (), -1))

    def match(self, net: int, ids: Sequence[int]) -> PrefixHandle:
        """Longest stored prefix of `ids`, whole pages only. Reads only."""
        node, pages, size = self.root(net), [], self.page_size
        for start in range(0, len(ids) - size + 1, size):
            child = node.children.get(tuple(ids[start : start + size]))
            if child is None:
                break
            node = child
            pages.append(child.page)
        return PrefixHandle(node, tuple(pages))

    def extend(self, node: Node, key: tuple[int, ...], page: int) -> Node | None:
        """Store `page` as the text of `node` followed by `key`. None when that text is stored
        already."""
        if key in node.children:
            return None
        child = Node(node, key, page)
        node.children[key] = child
        self._nodes[page] = child
        self._look_up(node)
        return child

    def rest(self, page: int) -> None:
        """No branch holds `page` any more."""
        self._idle[page] = None
        self._look_up(self._nodes[page])

    def wake(self, page: int) -> None:
        """A branch holds `page` again."""
        if page in self._idle:
            del self._idle[page]
            self._stuck.discard(page)
            self._look_up(self._nodes[page].parent)

    def _look_up(self, node: Node | None) -> None:
        """See whether `node` is stuck, and what stands above it as far as that changes."""
        first = True
        while node is not None and node.page in self._idle:
            pages = [child.page for child in node.children.values()]
            stuck = any(p not in self._idle or p in self._stuck for p in pages)
            if stuck == (node.page in self._stuck) and not first:
                return
            if stuck:
                self._stuck.add(node.page)
            else:
                self._stuck.discard(node.page)
            node, first = node.parent, False

    def victims(self, n: int, spared: Callable[[int], bool]) -> list[int]:
        """Up to `n` idle pages in the order of their eviction, none that is `spared` and no
        ancestor of such a one. Reads only."""
        gone: dict[int, None] = {}
        progress = True
        while progress and len(gone) < n:  # again where a page came to rest before its descendants
            progress = False
            for page in self._idle:
                if len(gone) >= n:
                    break
                if page in gone or spared(page):
                    continue
                if all(child.page in gone for child in self._nodes[page].children.values()):
                    gone[page] = None
                    progress = True
        return list(gone)

    def leaf(self, page: int) -> bool:
        """`page` is stored, and nothing is stored behind it."""
        node = self._nodes.get(page)
        return node is not None and not node.children

    def below(self, page: int) -> list[int]:
        """`page` and its descendants, descendants first; empty when `page` is not stored."""
        node = self._nodes.get(page)
        return [n.page for n in node.subtree()] if node else []

    def discard(self, page: int) -> None:
        """Take a page without descendants out of the tree."""
        node = self._nodes.pop(page)
        assert not node.children, f"page {page} still has descendants in the prefix cache"
        assert node.parent is not None
        del node.parent.children[node.key]
        self._idle.pop(page, None)
        self._stuck.discard(page)
        self._look_up(node.parent)
