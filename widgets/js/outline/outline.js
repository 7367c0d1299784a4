/** The outline: the same nodes as rows for reading, and the text alternative of the tree. */
import { num } from "../shared/format.js";
import { h } from "../shared/dom.js";
import { css } from "../shared/theme.js";
import { pieces, residentOf, stateOf, writingAt } from "../shared/facts.js";
import { openNodes, outlineRows } from "./layout.js";

const ROW = 26; // px
const SPARE = 6; // rows beyond the visible ones

export class Outline {
  /** @param {import("../shared/store.js").Store} store */
  constructor(store) {
    this.store = store;
    /** @type {Map<number, boolean>} nodes that the reader opened or closed */
    this.chosen = new Map();
    this.at = 0; // row of the roving tab stop
    this.find = h("input.wb-input.find", { type: "search", placeholder: "Find in tasks and text", "aria-label": "Find in tasks and text" });
    this.where = h("span.wb-step");
    this.list = h("div.rows");
    this.tree = h("div.wb-otree", { role: "tree", tabindex: "0", "aria-label": "Outline" }, [this.list]);
    const head = ["Task", "Span in the run", "Tokens", "In memory", "State"].map((w) => h("span", { textContent: w }));
    this.el = h("div.wb-outline", {}, [
      h("div.wb-ohead", {}, [h("h3.wb-title", { textContent: "Outline" }), this.where, h("span.wb-gap"), this.find]),
      h("div.wb-orow.names", { "aria-hidden": "true" }, head),
      this.tree,
    ]);
    this.find.addEventListener("input", () => this.rebuild());
    this.find.addEventListener("keydown", (e) => this.findKey(e));
    this.tree.addEventListener("scroll", () => this.paint());
    this.tree.addEventListener("keydown", (e) => this.key(e));
    this.tree.addEventListener("click", (e) => this.click(e));
  }

  /** @param {{run: any, ctx: any, theme: any, axis: any}} view */
  update(view) {
    this.view = view;
    const { run, ctx } = view;
    this.where.textContent = run.n ? `step ${num(ctx.step)} of ${num(run.n - 1)}` : "";
    this.rebuild();
  }

  rebuild() {
    if (!this.view) return;
    const { run, ctx } = this.view;
    const query = this.find.value.trim();
    const opened = openNodes(run, writingAt(run, ctx.step).node, this.chosen);
    this.rows = outlineRows(run, opened, query, query.length > 2 ? (node) => this.textOf(node) : undefined);
    if (run.tables.seq !== this.seq) this.texts = new Map();
    this.seq = run.tables.seq;
    this.list.style.height = `${Math.max(1, this.rows.length) * ROW}px`;
    this.at = Math.min(this.at, Math.max(0, this.rows.length - 1));
    this.paint();
  }

  textOf(node) {
    const { run } = this.view;
    this.texts ??= new Map();
    if (!this.texts.has(node)) {
      const rows = run.nodeSegs[node].flatMap((i) => [...run.order.subarray(run.segs.o0[i], run.segs.o1[i])]);
      this.texts.set(node, pieces(run, rows).join(""));
    }
    return this.texts.get(node);
  }

  /** Only the rows in view exist. */
  paint() {
    const first = Math.max(0, Math.floor(this.tree.scrollTop / ROW) - SPARE);
    const last = Math.min(this.rows.length, first + Math.ceil((this.tree.clientHeight || 400) / ROW) + 2 * SPARE);
    const out = [];
    for (let i = first; i < last; i++) out.push(this.row(this.rows[i], i));
    if (!this.rows.length) out.push(h("div.wb-orow.none", { textContent: this.find.value ? "Nothing found." : "thinking" }));
    this.list.replaceChildren(...out);
    const active = this.rows[this.at];
    if (active) this.tree.setAttribute("aria-activedescendant", this.rowId(active.node));
  }

  rowId(node) {
    this.prefix ??= `o${Math.random().toString(36).slice(2, 8)}`;
    return `${this.prefix}-${node}`;
  }

  row({ node, level, position, size, open, kids }, i) {
    const { run, ctx, theme, axis } = this.view;
    const { nodes } = run.tables;
    const state = stateOf(run, node, ctx.step);
    const colour = css(theme.fill(nodes.owner[node], nodes.depth[node]));
    const selected = this.store.state.node === node;
    const width = axis.total - axis.origin || 1;
    const x0 = (axis.rowValue(nodes.first[node]) - axis.origin) / width;
    const x1 = (axis.rowValue(run.lastRow(node)) - axis.origin) / width;
    const kind = state === "pruned" ? "pruned" : state === "to come" ? "come" : "held";
    const said = nodes.conclusion.get(node);
    const cells = [
      h("span.task", { style: `padding-left:${(level - 1) * 18}px` }, [
        h("span.tw", { textContent: kids ? (open ? "\u25be" : "\u25b8") : "", "data-twist": node }),
        h(`i.sw.${kind}`, { style: `--c:${colour}` }),
        h(nodes.depth[node] <= 1 ? "b" : "span.name", { textContent: run.name(node) }),
        h("span.said", { textContent: state === "to come" ? "" : said }),
      ]),
      h("span.span", {}, [h(`i.${kind}`, { style: `--c:${colour};left:${(100 * x0).toFixed(2)}%;width:${Math.max(0.6, 100 * (x1 - x0)).toFixed(2)}%` })]),
      h("span.num", { textContent: num(run.all[node]) }),
      h("span.num", { textContent: num(residentOf(run, run.members(node), ctx.step)) }),
      h("span.num.state", { textContent: state }),
    ];
    return h(`div.wb-orow.${kind}${selected ? ".selected" : ""}${i === this.at ? ".at" : ""}`, {
      id: this.rowId(node), role: "treeitem", "data-i": i, "aria-level": level, "aria-posinset": position, "aria-setsize": size,
      "aria-expanded": kids ? String(open) : undefined, "aria-selected": String(selected), style: `top:${i * ROW}px`,
    }, cells);
  }

  click(e) {
    const twist = e.target.closest?.("[data-twist]");
    const row = e.target.closest?.("[data-i]");
    if (!row) return;
    this.at = Number(row.dataset.i);
    const { node, kids, open } = this.rows[this.at];
    if (twist && kids) return this.toggle(node, !open);
    this.choose(node);
  }

  toggle(node, open) {
    this.chosen.set(node, open);
    this.rebuild();
  }

  choose(node) {
    if (this.view.select) this.view.select(this.store.state.node === node ? -1 : node);
    else this.store.set({ node });
    this.paint();
  }

  move(to) {
    this.at = Math.max(0, Math.min(this.rows.length - 1, to));
    const y = this.at * ROW;
    if (y < this.tree.scrollTop) this.tree.scrollTop = y;
    else if (y + ROW > this.tree.scrollTop + this.tree.clientHeight) this.tree.scrollTop = y + ROW - this.tree.clientHeight;
    this.paint();
  }

  key(e) {
    const row = this.rows[this.at];
    if (!row) return;
    const parent = () => this.rows.findLastIndex((r, i) => i < this.at && r.level < row.level);
    const acts = {
      ArrowDown: () => this.move(this.at + 1),
      ArrowUp: () => this.move(this.at - 1),
      Home: () => this.move(0),
      End: () => this.move(this.rows.length - 1),
      ArrowRight: () => (row.kids && !row.open ? this.toggle(row.node, true) : row.open && this.move(this.at + 1)),
      ArrowLeft: () => (row.open ? this.toggle(row.node, false) : parent() >= 0 && this.move(parent())),
      Enter: () => this.choose(row.node),
      "/": () => this.find.focus(),
    };
    if (!acts[e.key] || e.ctrlKey || e.metaKey || e.altKey) return;
    acts[e.key]();
    e.preventDefault();
    e.stopPropagation();
  }

  /** Enter goes to the next match, Escape leaves the search. */
  findKey(e) {
    e.stopPropagation();
    if (e.key === "Escape") {
      this.find.value = "";
      this.rebuild();
      this.tree.focus();
    } else if (e.key === "Enter") {
      const query = this.find.value.trim();
      if (!query || !this.rows.length) return;
      this.move((this.at + 1) % this.rows.length);
      this.choose(this.rows[this.at].node);
    }
  }
}
