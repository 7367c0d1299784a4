/**
 * What every lane needs to know of the tables, derived once per message: segments (stretches of tokens with
 * one owner, field and lifetime), the tree's links, the order in which memory is stacked. Pure.
 */
import { NEVER, Strings } from "./wire.js";
import { MaxPyramid } from "./pyramid.js";

/** As workbench.words */
export const FIELD = { structure: 0, prompt: 1, thought: 2, call: 3, result: 4, conclusion: 5, answer: 6, text: 7 };
export const FIELD_NAMES = ["", "prompt", "thought", "tool call", "tool result", "conclusion", "answer", "text"];
export const PHASE = { prefill: 0, decode: 1, extend: 2, reencode: 3, wait: 4 };
export const PHASE_NAMES = ["prefill", "decode", "extend", "re-encode", "wait"];
export const REASON_NAMES = [
  "pruned", "encoded again elsewhere", "moved", "its branch was cut", "its request ended", "evicted from the prefix cache", "preempted",
];

export class Run {
  /** @param {import("./wire.js").Tables} tables */
  constructor(tables) {
    this.tables = tables;
    this.decoder = new TextDecoder("utf-8");
    /** @type {Map<number, number>} token id -> row of `vocabulary` */
    this.words = new Map();
    this.sync();
  }

  /** Derives all from the tables again. Linear in rows, a few milliseconds for 100 000 tokens. */
  sync() {
    const t = this.tables;
    this.n = t.steps.n;
    this.meta = t.meta;
    this.peaks = new MaxPyramid(t.steps.resident ?? new Uint32Array(0), this.n);
    this.peak = this.n ? t.steps.resident[this.peaks.argmax(0, this.n)] : 0;
    for (let r = this.words.size; r < t.vocabulary.n; r++) this.words.set(t.vocabulary.id[r], r);
    this.orderTokens();
    this.cutSegments();
    this.linkNodes();
    this.lookAhead();
  }

  /** Prunes told since the newest step: a paused engine has obeyed them, the step that shows them is to come. */
  lookAhead() {
    const { prunes } = this.tables;
    [this.leaving, this.freeing] = [0, 0];
    for (let i = prunes.n - 1; i >= 0 && prunes.step[i] >= this.n; i--) {
      this.leaving += prunes.removed[i];
      this.freeing += prunes.pages_freed[i];
    }
  }

  /** The step whose facts hold at a cursor on step s. */
  known(s) {
    return this.leaving && s === this.n - 1 ? this.n : s;
  }

  /** Tokens in memory, and pages held, at a cursor on step s. */
  residentAt(s) {
    return this.tables.steps.resident[s] - (s === this.n - 1 ? this.leaving : 0);
  }

  heldAt(s) {
    return this.tables.steps.pages[s] - (s === this.n - 1 ? this.freeing : 0);
  }

  /** Rows of `tokens` by branch, then by index: memory is stacked in this order. Identity for one branch. */
  orderTokens() {
    const { tokens, branches, steps } = this.tables;
    const heads = new Uint32Array(branches.n + 1);
    for (let r = 0; r < tokens.n; r++) heads[tokens.branch[r] + 1]++;
    for (let b = 0; b < branches.n; b++) heads[b + 1] += heads[b];
    this.branchStart = heads.slice();
    this.order = new Uint32Array(tokens.n);
    for (let r = 0; r < tokens.n; r++) this.order[heads[tokens.branch[r]]++] = r;
    this.rowStep = new Uint32Array(tokens.n); // the step in which a row appeared
    for (let s = 0, r = 0; s < steps.n; s++) for (; r < steps.tokens[s] && r < tokens.n; r++) this.rowStep[r] = s;
  }

  cutSegments() {
    const { tokens } = this.tables;
    const { node, field, branch, born, died } = tokens;
    const starts = [];
    for (let o = 0, p = -1; o < tokens.n; o++) {
      const r = this.order[o];
      const cut =
        p < 0 || node[r] !== node[p] || field[r] !== field[p] || branch[r] !== branch[p] || died[r] !== died[p] ||
        (born[r] === NEVER) !== (born[p] === NEVER);
      if (cut) starts.push(o);
      p = r;
    }
    const n = starts.length;
    const s = { n };
    for (const name of ["o0", "o1", "born0", "born1", "died"]) s[name] = new Uint32Array(n);
    s.node = new Int32Array(n);
    s.field = new Uint8Array(n);
    s.branch = new Uint16Array(n);
    for (let i = 0; i < n; i++) {
      const [a, b] = [starts[i], i + 1 < n ? starts[i + 1] : tokens.n];
      const r = this.order[a];
      [s.o0[i], s.o1[i], s.node[i], s.field[i], s.branch[i]] = [a, b, node[r], field[r], branch[r]];
      [s.born0[i], s.born1[i], s.died[i]] = [born[r], born[this.order[b - 1]], died[r]];
    }
    this.segs = s;
  }

  linkNodes() {
    const { nodes, tokens } = this.tables;
    const n = nodes.n;
    this.own = new Uint32Array(n); // tokens of the node itself
    this.gone = new Uint32Array(n).fill(NEVER); // step at which the node left memory with a list around it
    /** @type {number[][]} segments of each node, in order */
    this.nodeSegs = Array.from({ length: n }, () => []);
    for (let i = 0; i < this.segs.n; i++) {
      const node = this.segs.node[i];
      if (node < 0 || node >= n) continue;
      this.own[node] += this.segs.o1[i] - this.segs.o0[i];
      this.nodeSegs[node].push(i);
    }
    this.all = this.own.slice(); // its subtree's included
    for (let i = n - 1; i >= 0; i--) if (nodes.parent[i] >= 0) this.all[nodes.parent[i]] += this.all[i];
    /** @type {number[][]} */
    this.children = Array.from({ length: n }, () => []);
    this.roots = [];
    this.maxDepth = 0;
    for (let i = 0; i < n; i++) {
      const p = nodes.parent[i];
      if (p < 0) this.roots.push(i);
      else this.children[p].push(i);
      this.maxDepth = Math.max(this.maxDepth, nodes.depth[i]);
    }
    this.markGone();
    this.tokenCount = tokens.n;
  }

  /** A prune takes those children whose first token it took, and what is below them but for pinned nodes. */
  markGone() {
    const { nodes, prunes } = this.tables;
    const { gone } = this;
    for (let i = 0; i < prunes.n; i++) {
      const [from, to] = [prunes.first[i], prunes.last[i]];
      for (const c of this.children[prunes.node[i]] ?? []) {
        if (nodes.first[c] >= from && nodes.first[c] < to) gone[c] = Math.min(gone[c], prunes.step[i]);
      }
    }
    for (let i = 0; i < nodes.n; i++) {
      const p = nodes.parent[i];
      if (p >= 0 && !nodes.pinned[i]) gone[i] = Math.min(gone[i], gone[p]);
    }
  }

  /** Flags over nodes: pinned, or below one that is. @returns {Uint8Array} */
  pinnedFlags() {
    const { nodes } = this.tables;
    const flags = new Uint8Array(nodes.n);
    for (let i = 0; i < nodes.n; i++) flags[i] = nodes.pinned[i] || (nodes.parent[i] >= 0 && flags[nodes.parent[i]]) ? 1 : 0;
    return flags;
  }

  /** Segments of a branch that no bar shows: of nodes down to depth `top`, of no node, or of another branch's nodes. */
  outside(branch, top = 0) {
    const { nodes } = this.tables;
    const out = [];
    for (let i = 0; i < this.segs.n; i++) {
      const node = this.segs.node[i];
      if (this.segs.branch[i] === branch && (node < 0 || nodes.depth[node] <= top || nodes.branch[node] !== branch)) out.push(i);
    }
    return out;
  }

  /** Exclusive end of a node's rows: what exists, while it is open. @param {number} node */
  lastRow(node) {
    return Math.min(this.tables.nodes.last[node], this.tokenCount);
  }

  /** Tokens of segment i that are in memory after step s. */
  alive(i, s) {
    const g = this.segs;
    if (g.born0[i] > s || g.died[i] <= s || g.born0[i] === NEVER) return 0;
    if (g.born1[i] <= s) return g.o1[i] - g.o0[i];
    const { born } = this.tables.tokens;
    let [lo, hi] = [g.o0[i], g.o1[i]];
    while (lo < hi) {
      const mid = (lo + hi) >> 1;
      if (born[this.order[mid]] <= s) lo = mid + 1;
      else hi = mid;
    }
    return lo - g.o0[i];
  }

  /** Flags over nodes: the node and all below it. @param {number} node @returns {Uint8Array} */
  members(node) {
    const { nodes } = this.tables;
    const flags = new Uint8Array(nodes.n);
    flags[node] = 1;
    for (let i = node + 1; i < nodes.n; i++) if (nodes.parent[i] >= 0 && flags[nodes.parent[i]]) flags[i] = 1;
    return flags;
  }

  /** The innermost node that row r of `tokens` belongs to, or -1. */
  nodeOfRow(r) {
    return r >= 0 && r < this.tokenCount ? this.tables.tokens.node[r] : -1;
  }

  /** Bytes of a token id. @param {number} id */
  bytesOf(id) {
    const row = this.words.get(id);
    return row === undefined ? new Uint8Array(0) : this.tables.vocabulary.text.raw(row);
  }

  /** Text of one token id; a part of a character shows as a replacement mark. */
  word(id) {
    return this.decoder.decode(this.bytesOf(id));
  }

  /** Path and title: "4.2 Harbour to mint". @param {number} node */
  name(node) {
    if (node < 0) return "";
    const { nodes } = this.tables;
    const name = `${nodes.path.get(node)} ${nodes.title.get(node)}`.trim();
    return name || (nodes.parent[node] < 0 ? "top level" : `node ${node}`);
  }

  /** @param {number} node @returns {number[]} */
  ancestors(node) {
    const out = [];
    for (let p = this.tables.nodes.parent[node]; p >= 0; p = this.tables.nodes.parent[p]) out.unshift(p);
    return out;
  }
}

/** Tables with no rows, for a view that waits for its first message. */
export function noTables(tables) {
  const names = "steps tokens alternatives vocabulary nodes pages refcounts prunes branches requests routes marks";
  for (const name of names.split(" ")) tables[name] ??= { n: 0 };
  tables.vocabulary.text ??= new Strings();
  return tables;
}
