/** Questions about a run at a step: what the gutters, the inspector and the previews say. Pure functions. */
import { lastAtMost } from "./axis.js";
import { NEVER } from "./wire.js";
import { FIELD } from "./run.js";

const WAITING = 0.2; // s from which a tool counts as waited for

/** @typedef {import("./run.js").Run} Run */

/** Row of `tokens` that step s ended with: the newest token. @param {Run} run */
export function tokenAt(run, s) {
  return run.n ? run.tables.steps.tokens[Math.min(s, run.n - 1)] - 1 : -1;
}

/** The node and field being written at step s; a token of no node counts to its root. @param {Run} run */
export function writingAt(run, s) {
  const r = Math.min(tokenAt(run, s), run.tokenCount - 1);
  if (r < 0) return { row: -1, node: -1, field: 0 };
  const { node, field } = run.tables.tokens;
  return { row: r, node: node[r] >= 0 ? node[r] : run.roots[0] ?? -1, field: field[r] };
}

/** Tokens of flagged nodes in memory after step s. @param {Run} run @param {Uint8Array} flags */
export function residentOf(run, flags, s) {
  let sum = 0;
  for (let i = 0; i < run.segs.n; i++) if (flags[run.segs.node[i]]) sum += run.alive(i, s);
  return sum;
}

/** Pages with contents of flagged nodes at step s. @param {Run} run */
export function pagesOf(run, flags, s) {
  const { pages } = run.tables;
  let sum = 0;
  for (let i = 0; i < pages.n; i++) {
    if (pages.from[i] <= s && s < pages.to[i] && (flags[pages.node[i]] || flags[pages.second[i]])) sum++;
  }
  return sum;
}

/** "to come" | "open" | "closed" | "in memory" … @param {Run} run */
export function stateOf(run, node, s) {
  const { nodes, branches } = run.tables;
  if (nodes.opened[node] > s) return "to come";
  if (run.gone[node] <= s) return "pruned";
  if (nodes.closed[node] <= s) return "closed";
  const branch = nodes.branch[node];
  if (branch < branches.n && branches.closed[branch] <= s) return branches.state.get(branch) || "ended";
  return "open";
}

/**
 * What pruning a node's subtask list would do at step s; of a list that is being written, the subtasks before the
 * newest leave. Derived: counts of tokens are exact, pages assume that survivors are packed. `why` says why there
 * is nothing to prune.
 * @param {Run} run
 */
export function pruneEffect(run, node, s) {
  const { nodes, prunes } = run.tables;
  const none = (why) => ({ removed: 0, why });
  if (node < 0 || nodes.list_first[node] === undefined) return none("Nothing is selected.");
  const branch = nodes.branch[node];
  const children = run.children[node].filter((c) => nodes.branch[c] === branch && nodes.opened[c] <= s);
  if (!children.length) return none("It has no subtasks.");
  const last = children.at(-1);
  const open = nodes.list_first[node] === NEVER || nodes.list_last[node] === NEVER || nodes.closed[last] > s;
  if (open && children.length === 1) {
    const name = nodes.path.get(last) || run.name(last);
    return none(nodes.closed[last] > s ? `${name} is still open: its conclusion has not been written.` : `${name} is the newest: only what stands before it can leave.`);
  }
  if ([node, ...run.ancestors(node)].some((i) => nodes.pinned[i])) return none("It is pinned.");
  const from = open ? nodes.first[children[0]] : nodes.list_first[node];
  const to = open ? nodes.first[last] : nodes.list_last[node];
  const kept = run.pinnedFlags();
  const { segs } = run;
  let [removed, behind, total] = [0, 0, 0];
  for (let i = 0; i < segs.n; i++) {
    if (segs.branch[i] !== branch) continue;
    const n = run.alive(i, s);
    if (!n) continue;
    total += n;
    const r = run.order[segs.o0[i]];
    if (r >= from && r < to && !kept[segs.node[i]]) removed += n;
    else if (removed) behind += n;
  }
  if (!removed) return none(nodes.pruned[node] <= s ? "Its subtasks have left memory already." : "No subtasks in memory here.");
  const size = run.meta.page_size || 16;
  const rotate = prunes.n > 0 && prunes.mode.get(prunes.n - 1) === "rotate";
  const pages = Math.ceil(total / size) - Math.ceil((total - removed) / size);
  return { removed, reencoded: rotate ? 0 : behind, rotated: rotate ? behind : 0, pages, after: total - removed, from, to, why: "" };
}

/** Shared by both memory and overview: the step at which nothing pruned would have filled the window, or -1. */
export function windowFull(run) {
  const { steps } = run.tables;
  const limit = run.meta.limit || run.meta.window;
  for (let s = 0; s < run.n; s++) if (steps.unpruned[s] >= limit) return s;
  return -1;
}

/** Alternatives of row r, best first. @param {Run} run */
export function alternativesOf(run, r) {
  const { alternatives: a } = run.tables;
  if (!a.n) return [];
  const out = [];
  for (let i = lastAtMost(a.token, a.n, r - 1) + 1; i < a.n && a.token[i] === r; i++) {
    out.push({ id: a.id[i], logprob: a.logprob[i], rank: out.length });
  }
  return out;
}

/** Steps, tokens, seconds and pruned tokens between two steps, both included. @param {Run} run */
export function spanFacts(run, a, b) {
  const { steps, prunes } = run.tables;
  let pruned = 0;
  for (let i = 0; i < prunes.n; i++) if (prunes.step[i] >= a && prunes.step[i] <= b) pruned += prunes.removed[i];
  return {
    steps: b - a + 1,
    tokens: steps.tokens[b] - (a ? steps.tokens[a - 1] : 0),
    seconds: steps.t[b] + steps.dt[b] - steps.t[a],
    pruned,
  };
}

/** Totals of the run, each from its own column. @param {Run} run */
export function totals(run) {
  const { steps, prunes, nodes } = run.tables;
  const sum = (column) => {
    let v = 0;
    for (let s = 0; s < run.n; s++) v += column[s];
    return v;
  };
  let removed = 0;
  for (let i = 0; i < prunes.n; i++) removed += prunes.removed[i];
  let [tools, toolSeconds] = [0, 0];
  for (let i = 0; i < nodes.n; i++) {
    if (nodes.called[i] === NEVER) continue;
    tools++;
    toolSeconds += nodes.tool_seconds[i] || 0;
  }
  const last = run.n - 1;
  const seconds = run.n ? steps.t[last] + steps.dt[last] : 0;
  const computed = run.n ? sum(steps.prefill) + sum(steps.decode) + sum(steps.extend) + sum(steps.reencode) : 0;
  return { tokens: run.tokenCount, sampled: run.n ? sum(steps.sampled) : 0, computed, removed, folds: prunes.n, tools, toolSeconds, seconds };
}

/** Seconds between the end of step s and the start of the next. @param {Run} run */
export function waitAfter(run, s) {
  const { steps } = run.tables;
  return s + 1 < run.n ? Math.max(0, steps.t[s + 1] - steps.t[s] - steps.dt[s]) : 0;
}

/** The tool that the newest open node waits for, or null. @param {Run} run */
export function toolWaiting(run) {
  const { nodes, steps } = run.tables;
  for (let i = nodes.n - 1; i >= Math.max(0, nodes.n - 8); i--) {
    if (nodes.called[i] === NEVER || nodes.tool_seconds[i] > 0 || nodes.closed[i] !== NEVER) continue;
    const since = steps.t[run.n - 1] + steps.dt[run.n - 1];
    const seconds = (run.meta.now ?? since) - since;
    if (seconds >= WAITING) return { tool: nodes.tool.get(i), seconds };
  }
  return null;
}

/** The node's own text up to the end of the run, cut into fields: [{field, rows}]. @param {Run} run */
export function fieldsOf(run, node) {
  const out = [];
  const segs = run.nodeSegs[node] ?? [];
  const bare = segs.every((i) => run.segs.field[i] === FIELD.structure);
  const open = run.tables.nodes.closed[node] === NEVER; // what is being written has no field yet
  for (const i of segs) {
    const field = run.segs.field[i];
    const rows = run.order.subarray(run.segs.o0[i], run.segs.o1[i]);
    const last = out.at(-1);
    if (last && last.field === field) last.rows.push(...rows);
    else if (field !== FIELD.structure || bare || (open && i === segs.at(-1))) out.push({ field, rows: [...rows] });
  }
  return out;
}

/**
 * Rows as pieces of text: bytes of one character may lie in several tokens, its text then stands with the last.
 * @param {Run} run @param {number[]} rows @returns {string[]}
 */
export function pieces(run, rows) {
  const decoder = new TextDecoder("utf-8");
  return rows.map((r, i) => decoder.decode(run.bytesOf(run.tables.tokens.id[r]), { stream: i + 1 < rows.length }));
}

/** What the recorder had to leave out: [{step, text}]. @param {Run} run */
export function losses(run) {
  const { marks } = run.tables;
  const out = [];
  for (let i = 0; i < marks.n; i++) if (marks.kind.get(i) === "loss") out.push({ step: marks.step[i], text: marks.text.get(i) });
  return out;
}
