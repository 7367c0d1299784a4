/** Pool: the same pages where they physically lie. A row is a page, or k pages where rows are short. */
import { num } from "../shared/format.js";
import { REASON_NAMES } from "../shared/run.js";
import { mix, pack } from "../shared/theme.js";
import { NEVER } from "../shared/wire.js";
import { putPixels, ratio, text } from "../shared/paint.js";

/** Linear light, in 1024 steps, back to bytes. */
const BACK = Uint8Array.from({ length: 1024 }, (_, i) => Math.round(255 * (i / 1023) ** (1 / 2.2)));

/** Device columns [x0, x1) of a stay; empty where it has no width. */
function extent(axis, from, to, scale, W) {
  const x0 = Math.max(0, Math.round(axis.xStart(from) * scale));
  const x1 = to === NEVER ? Math.round(axis.x(axis.total) * scale) : Math.round(axis.xStart(to) * scale);
  return [x0, Math.min(W, x1)];
}

/** Rows of the picture: all pages, or those up to the highest that was ever used where most never were. */
export function pageRows(run) {
  const { pages } = run.tables;
  const all = Math.max(1, run.meta.pages || 1);
  let most = 0;
  for (let i = 0; i < pages.n; i++) if (pages.page[i] >= most) most = pages.page[i] + 1;
  return most > 0.66 * all ? all : Math.min(all, Math.max(8, Math.ceil((most * 1.12) / 8) * 8));
}

/** Index raster, stay + 1 in every device pixel; for pools with at most H pages. */
export function poolRaster(run, axis, W, H) {
  const { pages } = run.tables;
  const rows = pageRows(run);
  const raster = new Int32Array(W * H);
  for (let i = 0; i < pages.n; i++) {
    const [x0, x1] = extent(axis, pages.from[i], pages.to[i], W / axis.w, W);
    if (x1 <= x0) continue;
    const y1 = Math.floor(((pages.page[i] + 1) * H) / rows);
    for (let y = Math.floor((pages.page[i] * H) / rows); y < y1; y++) raster.fill(i + 1, y * W + x0, y * W + x1);
  }
  return raster;
}

/** Mean colour of k pages a row, averaged in linear light: a half-free row is half as dense. */
export function poolBlend(run, axis, W, H, lut, ground) {
  const { pages } = run.tables;
  const rows = pageRows(run);
  const sums = new Float32Array(W * H * 4);
  const linear = Float32Array.from({ length: 256 }, (_, v) => (v / 255) ** 2.2);
  for (let i = 0; i < pages.n; i++) {
    const [x0, x1] = extent(axis, pages.from[i], pages.to[i], W / axis.w, W);
    const c = lut[i + 1];
    const y = Math.floor((pages.page[i] * H) / rows);
    for (let p = (y * W + x0) * 4; p < (y * W + x1) * 4; p += 4) {
      sums[p] += linear[c & 255];
      sums[p + 1] += linear[(c >> 8) & 255];
      sums[p + 2] += linear[(c >> 16) & 255];
      sums[p + 3]++;
    }
  }
  const out = new Uint32Array(W * H);
  const places = new Uint32Array(H); // pages that a row of pixels stands for
  for (let page = 0; page < rows; page++) places[Math.floor((page * H) / rows)]++;
  const paper = ground.map((v) => linear[v]);
  for (let y = 0, p = 0; y < H; y++) {
    for (let x = 0; x < W; x++, p++) {
      const held = sums[4 * p + 3];
      if (!held) continue;
      const all = Math.max(held, places[y]);
      let packed = 0xff000000;
      for (let c = 0; c < 3; c++) {
        const mean = (sums[4 * p + c] + paper[c] * (all - held)) / all;
        packed |= BACK[Math.min(1023, Math.round(mean * 1023))] << (8 * c);
      }
      out[p] = packed >>> 0;
    }
  }
  return out;
}

/** Largest reference count that each stay ever had. @returns {Uint16Array} */
export function sharedStays(run) {
  const { pages, refcounts } = run.tables;
  const most = new Uint16Array(pages.n).fill(1);
  for (let i = 0; i < refcounts.n; i++) most[refcounts.stay[i]] = Math.max(most[refcounts.stay[i]], refcounts.count[i]);
  return most;
}

/** References to a stay after step s. */
export function refcountAt(run, stay, s) {
  const { refcounts } = run.tables;
  let count = 1;
  for (let i = 0; i < refcounts.n; i++) if (refcounts.stay[i] === stay && refcounts.step[i] <= s) count = refcounts.count[i];
  return count;
}

function colours(run, theme, members) {
  const { pages, nodes } = run.tables;
  const lut = new Uint32Array(pages.n + 1);
  const made = new Map(); // few distinct colours: owner, depth, cached, muted
  for (let i = 0; i < pages.n; i++) {
    const node = pages.node[i];
    const known = node >= 0 && node < nodes.n;
    const [owner, depth] = known ? [nodes.owner[node], Math.min(5, nodes.depth[node])] : [0, 0];
    const cached = pages.branch[i] < 0; // kept by the prefix cache alone
    const muted = members && !(known && members[node]) && !(pages.second[i] >= 0 && members[pages.second[i]]);
    const key = owner * 32 + depth * 4 + (cached ? 2 : 0) + (muted ? 1 : 0);
    if (!made.has(key)) {
      let c = owner ? theme.fill(owner, depth) : mix(theme.neutral, theme.ground, 0.7);
      if (cached) c = mix(c, theme.ground, 0.45);
      made.set(key, pack(muted ? theme.muted(c) : c));
    }
    lut[i + 1] = made.get(key);
  }
  return lut;
}

export class PoolLane {
  id = "pool";
  title = "Pool";

  height(ctx) {
    return ctx.token("lane-pool", 96);
  }

  draw(g, w, h, ctx) {
    const { run, theme, axis, members } = ctx;
    const d = ratio();
    const [W, H] = [Math.round(w * d), Math.round(h * d)];
    const lut = colours(run, theme, members);
    const rows = pageRows(run);
    const fits = rows <= H;
    let pixels;
    if (fits) {
      if (ctx.stale || !this.view) this.view = { W, H, d, raster: poolRaster(run, axis, W, H) };
      const { raster } = this.view;
      pixels = new Uint32Array(W * H);
      for (let p = 0; p < pixels.length; p++) pixels[p] = lut[raster[p]];
    } else {
      this.view = null;
      pixels = poolBlend(run, axis, W, H, lut, theme.ground);
    }
    putPixels(g, pixels, W, H, (this.scratch ??= document.createElement("canvas")));
    if (fits) this.shared(g, w, h, ctx, rows);
    const never = (run.meta.pages || 0) - rows;
    if (never > 0) text(g, theme, `${num(never)} more pages were never used`, w - 6, h - 8, { size: 10.5, colour: theme.ink3, align: "right", halo: theme.ground });
  }

  /** A light line in pages that several branches hold, where rows are tall enough to carry it. */
  shared(g, w, h, { run, axis, theme }, rows) {
    const { pages } = run.tables;
    const row = h / rows;
    const most = sharedStays(run);
    g.fillStyle = `rgba(${theme.ground},0.7)`;
    for (let i = 0; i < pages.n; i++) {
      if (most[i] < 2) continue;
      const [x0, x1] = extent(axis, pages.from[i], pages.to[i], 1, w);
      if (row >= 4) g.fillRect(x0, Math.round(pages.page[i] * row + row / 2), x1 - x0, 1);
      else if (row >= 1.4) g.fillRect(x0, pages.page[i] * row + row * 0.35, x1 - x0, row * 0.3);
    }
  }

  hover(x, y, ctx) {
    if (!this.view) return null;
    const { W, H, d, raster } = this.view;
    const p = Math.floor(y * d) * W + Math.floor(x * d);
    const { run } = ctx;
    const page = Math.floor((y * d * pageRows(run)) / H);
    const i = raster[p] - 1;
    if (i === undefined || Number.isNaN(i)) return null;
    if (i < 0) return { node: -1, text: [`page ${page}`, "free"] };
    const { pages } = run.tables;
    const refs = refcountAt(run, i, ctx.axis.stepAt(x));
    const ended = pages.to[i] === NEVER ? "" : `until step ${num(pages.to[i])}: ${REASON_NAMES[pages.reason[i]]}`;
    const parts = [`page ${pages.page[i]}`, ctx.run.name(pages.node[i]), `since step ${num(pages.from[i])}`, refs > 1 ? `${refs} references` : "", ended];
    return { node: pages.node[i], text: parts };
  }

  readout({ run, step }) {
    if (!run.n) return ["", ""];
    return [`${num(run.heldAt(step))} / ${num(run.meta.pages)}`, `pages of ${run.meta.page_size}`];
  }

  describe({ run, step }) {
    if (!run.n) return "Pool: nothing yet.";
    return `Pages of the pool over time: ${num(run.heldAt(step))} of ${num(run.meta.pages)} held now.`;
  }
}
