/** The outline's rows: which nodes are open, which match. Pure. */

/** Text in which a node is found: name, conclusion and, when given, what it wrote. */
export function matches(run, node, query, textOf) {
  const { nodes } = run.tables;
  const needle = query.toLowerCase();
  if (run.name(node).toLowerCase().includes(needle)) return true;
  if (nodes.conclusion.get(node).toLowerCase().includes(needle)) return true;
  return textOf ? textOf(node).toLowerCase().includes(needle) : false;
}

/**
 * Visible rows in order: {node, level, position, size, open, kids}. With a query only matches and what leads
 * to them; those are kept open.
 * @param {import("../shared/run.js").Run} run @param {Set<number>} opened
 */
export function outlineRows(run, opened, query = "", textOf = undefined) {
  const { nodes } = run.tables;
  let kept = null;
  if (query) {
    kept = new Uint8Array(nodes.n);
    for (let i = nodes.n - 1; i >= 0; i--) {
      if (kept[i] || matches(run, i, query, textOf)) {
        kept[i] = 1;
        if (nodes.parent[i] >= 0) kept[nodes.parent[i]] = 1;
      }
    }
  }
  const out = [];
  const visit = (list, level) => {
    const shown = kept ? list.filter((i) => kept[i]) : list;
    shown.forEach((node, k) => {
      const kids = run.children[node].length;
      const open = kids > 0 && (kept ? run.children[node].some((c) => kept[c]) : opened.has(node));
      out.push({ node, level, position: k + 1, size: shown.length, open, kids });
      if (open) visit(run.children[node], level + 1);
    });
  };
  visit(topOf(run), 1);
  return out;
}

/** Roots that only hold a list are stepped over, so that the outline begins with the tasks. */
export function topOf(run) {
  const { nodes } = run.tables;
  if (run.roots.length === 1 && run.children[run.roots[0]].length) return run.children[run.roots[0]];
  return run.roots.filter((r) => r < nodes.n);
}

/**
 * What is open: what the reader chose, else everything in a small tree, else the way to the node being written.
 * @param {Map<number, boolean>} chosen
 */
export function openNodes(run, node, chosen) {
  const opened = new Set();
  if (run.tables.nodes.n <= 48) for (let i = 0; i < run.tables.nodes.n; i++) opened.add(i);
  else if (node >= 0) for (const a of run.ancestors(node)) opened.add(a);
  for (const [i, open] of chosen) open ? opened.add(i) : opened.delete(i);
  return opened;
}
