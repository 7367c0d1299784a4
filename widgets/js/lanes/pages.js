/** Pages now: the pool at the cursor's step as a grid. A cell is a page; fill is what is taken, hue its owner. */
import { h } from "../shared/dom.js";
import { num } from "../shared/format.js";
import { REASON_NAMES } from "../shared/run.js";
import { contrast, css, mix } from "../shared/theme.js";
import { dots, fit, hatch, ring, text } from "../shared/paint.js";
import { pruneEffect } from "../shared/facts.js";
import { refcountAt } from "./pool.js";
import { fillAt, gridFit, pagesAt, staysByPage } from "./pages_layout.js";

const ENCODED_AGAIN = 1; // words.FreeReason
const ENDED = 4;
const EVICTED = 5;
const ROOM = 260; // px of height

export class PagesNow {
  /** @param {any} view the composite's View */
  constructor(view) {
    this.view = view;
    this.at = -1;
    this.words = h("span.wb-hover");
    this.count = h("span.wb-thin");
    this.canvas = h("canvas", { role: "img", tabindex: "0" });
    this.el = h("section.wb-pages", { "aria-label": "Pages now" }, [
      h("h4", {}, ["Pages now", this.count]), this.canvas, h("p", {}, [this.words]),
    ]);
    this.canvas.addEventListener("pointermove", (e) => this.show(this.cellAt(e.offsetX, e.offsetY)));
    this.canvas.addEventListener("pointerleave", () => this.show(-1));
    this.canvas.addEventListener("click", () => this.choose());
    this.canvas.addEventListener("keydown", (e) => this.key(e));
  }

  draw() {
    const { run, ctx, theme } = this.view;
    if (this.seq !== run.tables.seq) this.stays = staysByPage(run);
    this.seq = run.tables.seq;
    const width = Math.max(120, this.el.clientWidth - 24);
    this.grid = gridFit(this.stays.length, width, ROOM);
    this.cells = pagesAt(run, this.stays, ctx.known);
    const { cell, columns, rows } = this.grid;
    const g = fit(this.canvas, columns * cell, Math.max(1, rows) * cell);
    const gone = this.view.preview ? this.doomed(this.view.preview) : null;
    let [held, shared, pinned] = [0, 0, 0];
    this.cells.forEach((c, page) => {
      const [x, y] = [(page % columns) * cell, Math.floor(page / columns) * cell];
      if (c.stay < 0) return this.free(g, theme, x, y, c.ghost);
      held++;
      const refs = cell > 9 ? refcountAt(run, c.stay, ctx.step) : 1;
      shared += refs > 1 ? 1 : 0;
      pinned += run.tables.pages.pinned[c.stay];
      this.page(g, x, y, c.stay, refs, gone?.get(page));
    });
    if (this.at >= 0) this.outline(g, theme);
    const free = this.cells.length - held;
    this.count.textContent = `${num(held)} held, ${num(free)} free${shared ? `, ${num(shared)} shared` : ""}${pinned ? `, ${num(pinned)} pinned` : ""}`;
    this.canvas.setAttribute("aria-label", `Pool of ${num(this.cells.length)} pages at step ${ctx.step}: ${this.count.textContent}. Arrows walk the pages.`);
    this.say();
  }

  page(g, x, y, stay, refs, doom) {
    const { run, ctx, theme } = this.view;
    const { pages, nodes } = run.tables;
    const { cell } = this.grid;
    const s = cell - (cell > 9 ? 3 : cell > 5 ? 2 : cell > 2 ? 1 : 0);
    const base = this.colour(pages.node[stay]);
    const full = fillAt(run, stay, ctx.known);
    g.globalAlpha = ctx.members && !ctx.members[pages.node[stay]] && !ctx.members[pages.second[stay]] ? 0.22 : 1;
    g.fillStyle = css(mix(base, theme.ground, cell > 3 ? 0.24 : 1));
    g.fillRect(x, y, s, s);
    g.fillStyle = css(base);
    g.fillRect(x, y + s * (1 - full), s, s * full);
    if (cell > 9) {
      const best = contrast(base, [0, 0, 0]) > contrast(base, [255, 255, 255]) ? [0, 0, 0] : [255, 255, 255];
      if (pages.second[stay] >= 0) corner(g, css(this.colour(pages.second[stay])), [x + s, y + s], [x + s, y + s * 0.42], [x + s * 0.42, y + s]);
      if (cell >= 30 && refs < 2 && nodes.n && pages.node[stay] >= 0) {
        const path = nodes.path.get(pages.node[stay]);
        text(g, theme, path.length > 5 ? `${path.slice(0, 4)}\u2026` : path, x + s / 2, y + s / 2 + 0.5, { size: 10, colour: best, align: "center" });
      }
      if (refs > 1) {
        g.strokeStyle = css(best, 0.85);
        g.lineWidth = 1;
        g.strokeRect(x + 1.5, y + 1.5, s - 3, s - 3);
        if (cell > 14) text(g, theme, String(refs), x + s / 2, y + s / 2 + 0.5, { size: Math.min(11, s - 6), weight: 600, colour: best, align: "center" });
      }
      if (pages.pinned[stay]) corner(g, css(theme.ink), [x, y], [x + Math.min(7, s * 0.42), y], [x, y + Math.min(7, s * 0.42)]);
      g.fillStyle = css(theme.ink);
      if (pages.copied_from[stay] >= 0) g.fillRect(x + 2, y + s - 4, s - 4, 1.5);
    }
    g.globalAlpha = 1;
    if (doom) this.doom(g, theme, x, y, s, doom);
  }

  /** A free page is a dot; for a while its last owner stays as a ghost whose form is the reason. */
  free(g, theme, x, y, ghost) {
    const { cell } = this.grid;
    const s = cell - (cell > 9 ? 3 : cell > 5 ? 2 : 1);
    if (ghost < 0 || cell < 8) {
      g.fillStyle = css(theme.lineStrong, cell > 9 ? 1 : 0.35);
      return cell > 9 ? g.fillRect(x + s / 2 - 1, y + s / 2 - 1, 2, 2) : cell > 3 ? g.fillRect(x, y, s, s) : undefined;
    }
    const { pages } = this.view.run.tables;
    const colour = mix(this.colour(pages.node[ghost]), theme.ground, 0.6);
    const reason = pages.reason[ghost];
    if (reason === EVICTED) g.fillStyle = dots(g, theme, colour);
    else if (reason !== ENCODED_AGAIN && reason !== ENDED) g.fillStyle = hatch(g, theme, colour, 1, 4);
    else g.fillStyle = "transparent";
    g.fillRect(x, y, s, s);
    g.strokeStyle = css(colour);
    g.lineWidth = 1;
    g.setLineDash(reason === ENCODED_AGAIN ? [2, 2] : []);
    g.strokeRect(x + 0.5, y + 0.5, s - 1, s - 1);
    g.setLineDash([]);
  }

  /** What a prune would free (struck) and what it would encode again (dashed). @returns {Map<number, "free" | "again">} */
  doomed(preview) {
    const { run, ctx } = this.view;
    const effect = pruneEffect(run, preview.node, ctx.known);
    const members = run.members(preview.node);
    members[preview.node] = 0;
    const { pages } = run.tables;
    const out = new Map();
    let behind = Infinity;
    this.cells.forEach(({ stay }, page) => {
      if (stay < 0 || !effect.removed || pages.branch[stay] !== run.tables.nodes.branch[preview.node]) return;
      const whole = members[pages.node[stay]] && (pages.second[stay] < 0 || members[pages.second[stay]]);
      if (members[pages.node[stay]] || members[pages.second[stay]]) behind = Math.min(behind, pages.place[stay]);
      if (whole) out.set(page, "free");
    });
    this.cells.forEach(({ stay }, page) => {
      if (stay >= 0 && !out.has(page) && pages.place[stay] > behind && pages.branch[stay] === run.tables.nodes.branch[preview.node]) out.set(page, "again");
    });
    return out;
  }

  doom(g, theme, x, y, s, kind) {
    g.strokeStyle = css(kind === "free" ? theme.bad : theme.ink);
    g.lineWidth = 1.5;
    g.setLineDash(kind === "free" ? [] : [3, 2]);
    g.strokeRect(x - 0.25, y - 0.25, s + 0.5, s + 0.5);
    g.setLineDash([]);
    if (kind !== "free" || s < 6) return;
    g.beginPath();
    g.moveTo(x + 2, y + s - 2);
    g.lineTo(x + s - 2, y + 2);
    g.stroke();
  }

  colour(node) {
    const { theme, run } = this.view;
    const { nodes } = run.tables;
    const owner = node >= 0 && node < nodes.n ? nodes.owner[node] : 0;
    return owner ? theme.fill(owner, Math.max(1, nodes.depth[node])) : mix(theme.neutral, theme.ground, 0.75);
  }

  outline(g, theme) {
    const { cell, columns } = this.grid;
    const s = cell - (cell > 9 ? 3 : 1);
    ring(g, theme, (q) => q.rect((this.at % columns) * cell - 0.5, Math.floor(this.at / columns) * cell - 0.5, s + 1, s + 1));
  }

  cellAt(x, y) {
    const { cell, columns } = this.grid;
    const page = Math.floor(y / cell) * columns + Math.floor(x / cell);
    return page < this.cells.length ? page : -1;
  }

  show(page) {
    if (page === this.at) return;
    this.at = page;
    this.draw();
  }

  say() {
    const { run, ctx } = this.view;
    const c = this.cells[this.at];
    if (!c) return void (this.words.textContent = "\u00a0");
    const { pages } = run.tables;
    const i = c.stay >= 0 ? c.stay : c.ghost;
    const parts = [`page ${this.at}`];
    if (i < 0) parts.push("free");
    else if (c.stay < 0) parts.push(`free since step ${num(pages.to[i])}: ${REASON_NAMES[pages.reason[i]]}`, `was ${run.name(pages.node[i])}`);
    else {
      const refs = refcountAt(run, i, ctx.step);
      parts.push(run.name(pages.node[i]), pages.second[i] >= 0 ? `and ${run.name(pages.second[i])}` : "", `since step ${num(pages.from[i])}`, refs > 1 ? `${refs} references` : "");
    }
    this.words.textContent = parts.filter(Boolean).join(", ");
  }

  choose() {
    const stay = this.cells[this.at]?.stay ?? -1;
    if (stay >= 0) this.view.select(this.view.run.tables.pages.node[stay]);
  }

  key(e) {
    const { columns } = this.grid;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    if (e.key === "Enter") this.choose();
    else if (moves[e.key]) this.show(Math.max(0, Math.min(this.cells.length - 1, Math.max(0, this.at) + moves[e.key])));
    else return;
    this.view.el.live.textContent = this.words.textContent;
    e.preventDefault();
    e.stopPropagation();
  }
}

function corner(g, style, ...points) {
  g.fillStyle = style;
  g.beginPath();
  points.forEach(([x, y], i) => (i ? g.lineTo(x, y) : g.moveTo(x, y)));
  g.fill();
}
