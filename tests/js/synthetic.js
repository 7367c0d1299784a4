/**
 * A made-up run as tables: a tree that thinks, calls tools and prunes, on pages of 16. Deterministic; for
 * tests and for measuring redraws only. `parallel` > 1 makes independent branches that decode in step.
 */
import { NEVER, Strings, Tables } from "../../widgets/js/shared/wire.js";
import { FIELD, Run } from "../../widgets/js/shared/run.js";
import { noTables } from "../../widgets/js/shared/run.js";

const WORDS = " the map says that museum opens at nine so two of them must come before lunch and tram 45 minutes check".split(" ").slice(1);
const ENC = new TextEncoder();

function random(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const COLUMNS = {
  steps: "t:f8 dt:f4 phase:u1 rows:u2 prefill:u4 decode:u4 extend:u4 reencode:u4 sampled:u4 tokens:u4 resident:u4 unpruned:u4 pages:u4 waiting:u2",
  tokens: "branch:u2 index:u4 id:u4 node:i4 field:u1 origin:u1 born:u4 died:u4 logprob:f4 entropy:f4",
  alternatives: "token:u4 id:u4 logprob:f4",
  vocabulary: "id:u4 text:str",
  nodes: "id:u4 parent:i4 branch:u2 kind:u1 depth:u1 owner:u1 lap:u1 opened:u4 closed:u4 pruned:u4 first:u4 last:u4 list_first:u4 list_last:u4 pinned:u1 called:u4 tool_ok:u1 tool_seconds:f4 path:str title:str tool:str conclusion:str",
  pages: "page:u4 branch:i4 place:u4 node:i4 second:i4 from:u4 to:u4 used:u2 reason:u1 copied_from:i4 pinned:u1",
  refcounts: "stay:u4 step:u4 count:u2",
  prunes: "step:u4 node:i4 branch:u2 first:u4 last:u4 removed:u4 reencoded:u4 rotated:u4 pages_freed:i4 before:u4 after:u4 mode:str cause:str",
  branches: "id:u4 request:u2 parent:i4 at:u4 opened:u4 closed:u4 reused:u4 state:str",
  requests: "id:u4 opened:u4 closed:u4 title:str strategy:str params:str finish:str answer:str error:str",
  routes: "step:u4 layer:u2 expert:u2 count:u2",
  marks: "step:u4 t:f8 kind:str text:str",
};
const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i4: Int32Array, f4: Float32Array, f8: Float64Array };

/** Rows as objects -> Tables. */
export function toTables(rows, meta) {
  const tables = new Tables();
  for (const [name, columns] of Object.entries(COLUMNS)) {
    const list = rows[name] ?? [];
    const table = (tables[name] = { n: list.length });
    for (const spec of columns.split(" ")) {
      const [column, dtype] = spec.split(":");
      if (dtype === "str") {
        const strings = (table[column] = new Strings());
        const parts = list.map((row) => ENC.encode(row[column] ?? ""));
        const offsets = new Uint32Array(parts.length + 1);
        parts.forEach((p, i) => (offsets[i + 1] = offsets[i] + p.length));
        const bytes = new Uint8Array(offsets[parts.length]);
        parts.forEach((p, i) => bytes.set(p, offsets[i]));
        strings.append(offsets, bytes);
      } else table[column] = ARRAYS[dtype].from(list, (row) => row[column] ?? 0);
    }
  }
  tables.meta = meta;
  tables.seq = 0;
  return noTables(tables);
}

class Maker {
  constructor({ total, pages, seed }) {
    Object.assign(this, { total, capacity: pages, rng: random(seed), t: 0, size: 16 });
    this.rows = Object.fromEntries(Object.keys(COLUMNS).map((k) => [k, []]));
    this.rows.vocabulary = WORDS.map((w, id) => ({ id, text: ` ${w}` }));
    this.free = Array.from({ length: pages }, (_, i) => i);
    this.memory = []; // rows of tokens in memory, in order
    this.table = []; // rows of `pages`, by place
    this.unpruned = 0;
    this.rows.requests.push({ id: 0, opened: 0, closed: NEVER, title: "Nine museums, three days", strategy: "tim", answer: "Day one" });
    this.rows.branches.push({ id: 0, request: 0, parent: -1, at: NEVER, opened: 0, closed: NEVER, state: "open" });
  }

  get step() {
    return this.rows.steps.length;
  }

  int(a, b) {
    return a + Math.floor(this.rng() * (b - a + 1));
  }

  node(parent, path, title, owner) {
    const depth = parent < 0 ? 0 : this.rows.nodes[parent].depth + 1;
    return this.rows.nodes.push({
      id: this.rows.nodes.length, parent, branch: 0, kind: parent < 0 ? 0 : 1, depth, owner, opened: this.step, closed: NEVER,
      pruned: NEVER, first: this.rows.tokens.length, last: NEVER, list_first: NEVER, list_last: NEVER, called: NEVER, path, title,
    }) - 1;
  }

  token(node, field, sampled) {
    const row = this.rows.tokens.length;
    const entropy = sampled ? Math.max(0.01, -Math.log(this.rng()) * 0.5) : NaN;
    const logprob = sampled ? -entropy * (0.4 + this.rng()) : NaN;
    const id = this.int(0, WORDS.length - 1);
    this.rows.tokens.push({ branch: 0, index: row, id, node, field, origin: sampled ? 1 : 2, born: this.step, died: NEVER, logprob, entropy });
    if (sampled) for (let k = 0; k < 4; k++) this.rows.alternatives.push({ token: row, id: (id + k) % WORDS.length, logprob: logprob - k * 0.9 });
    this.memory.push(row);
    this.unpruned++;
    this.place();
  }

  place() {
    const n = this.memory.length;
    const row = this.memory[n - 1];
    if ((n - 1) % this.size === 0) {
      const page = this.free.shift() ?? 0;
      const stay = { page, branch: 0, place: this.table.length, node: this.rows.tokens[row].node, second: -1, from: this.step, to: NEVER, used: 0, copied_from: -1 };
      this.table.push(this.rows.pages.push(stay) - 1);
    }
    const stay = this.rows.pages[this.table.at(-1)];
    stay.used++;
    if (this.rows.tokens[row].node !== stay.node) stay.second = this.rows.tokens[row].node;
  }

  end(phase, tokens, seconds) {
    const count = { prefill: 0, decode: 0, extend: 0, reencode: 0 };
    count[["prefill", "decode", "extend", "reencode"][phase]] = tokens;
    this.rows.steps.push({
      t: this.t, dt: seconds, phase, rows: 1, ...count, sampled: phase === 1 ? 1 : 0, tokens: this.rows.tokens.length,
      resident: this.memory.length, unpruned: this.unpruned, pages: this.table.length,
    });
    this.t += seconds;
  }

  write(node, field, n) {
    for (let i = 0; i < n && this.rows.tokens.length < this.total; i++) {
      this.token(node, field, true);
      this.end(1, 1, 0.012 + this.rng() * 0.004);
    }
  }

  tool(node) {
    const row = this.rows.nodes[node];
    Object.assign(row, { called: this.step, tool: "lookup", tool_ok: 1, tool_seconds: 0.2 + this.rng() });
    this.t += row.tool_seconds;
    const n = this.int(30, 110);
    for (let i = 0; i < n; i++) this.token(node, FIELD.result, false);
    this.end(2, n, 0.03);
  }

  prune(node) {
    const row = this.rows.nodes[node];
    const gone = new Set(this.memory.filter((r) => r >= row.list_first && r < row.list_last));
    if (!gone.size) return;
    const before = this.memory.length;
    const cut = this.memory.findIndex((r) => gone.has(r));
    const kept = this.memory.filter((r) => !gone.has(r));
    for (const r of gone) this.rows.tokens[r].died = this.step;
    const held = this.table.length;
    for (const stay of this.table.splice(Math.floor(cut / this.size))) {
      this.rows.pages[stay].to = this.step;
      this.free.unshift(this.rows.pages[stay].page);
    }
    const reencoded = kept.length - cut;
    this.memory = kept.slice(0, Math.floor(cut / this.size) * this.size);
    for (const r of kept.slice(this.memory.length)) {
      this.memory.push(r);
      this.place();
    }
    row.pruned = this.step;
    this.rows.prunes.push({
      step: this.step, node, branch: 0, first: row.list_first, last: row.list_last, removed: gone.size, reencoded, rotated: 0,
      pages_freed: held - this.table.length, before, after: kept.length, mode: "reencode", cause: "threshold",
    });
    this.end(3, reencoded, 0.02);
  }

  task(parent, path, depth, owner) {
    if (this.rows.tokens.length >= this.total) return;
    const node = this.node(parent, path, ["Read the request", "List the museums", "Opening hours", "Walking times", "Ticket prices", "Day one", "Check slack"][this.int(0, 6)], owner);
    this.write(node, FIELD.thought, this.int(12, 60));
    const row = this.rows.nodes[node];
    if (depth < 4 && this.rng() < (depth === 1 ? 0.95 : 0.45)) {
      row.list_first = this.rows.tokens.length;
      const kids = this.int(2, depth === 1 ? 5 : 3);
      for (let k = 1; k <= kids; k++) this.task(node, `${path}.${k}`, depth + 1, owner);
      row.list_last = this.rows.tokens.length;
    } else if (this.rng() < 0.6) {
      this.write(node, FIELD.call, this.int(8, 16));
      this.tool(node);
    }
    this.write(node, FIELD.conclusion, this.int(10, 30));
    row.last = this.rows.tokens.length;
    row.closed = this.step;
    row.conclusion = "Kept 4 of nine; 50 minutes on foot in all.";
    if (row.list_first !== NEVER) this.waiting.push(node);
    while (this.waiting.length > 1) this.prune(this.waiting.shift());
  }
}

/** @param {{total?: number, pages?: number, seed?: number, window?: number, experts?: number}} [o] */
export function syntheticRun(o = {}) {
  const { total = 6000, pages = 192, seed = 7, window = 2048, experts = 0 } = o;
  const make = new Maker({ total, pages, seed });
  make.waiting = [];
  const root = make.node(-1, "", "Nine museums, three days", 0);
  for (let i = 0; i < 180; i++) make.token(root, FIELD.prompt, false);
  make.end(0, 180, 0.2);
  for (let k = 1; make.rows.tokens.length < total; k++) make.task(root, String(k), 1, ((k - 1) % 12) + 1);
  make.write(root, FIELD.answer, 30);
  const meta = {
    model: "made-up", backend: "none", page_size: 16, pages, window, limit: window, layers: 12, experts, complete: true, live: false,
    provenance: { unpruned: "derived" }, last_step: make.step - 1,
  };
  if (experts) route(make, experts);
  return new Run(toTables(make.rows, meta));
}

function route(make, experts) {
  for (let s = 0; s < make.step; s += 1) {
    for (let layer = 0; layer < 12; layer++) {
      for (let k = 0; k < 2; k++) make.rows.routes.push({ step: s, layer, expert: Math.floor(experts * make.rng() ** 1.7), count: 1 });
    }
  }
}
