/**
 * Memory: what the model sees, token by token from the oldest (bottom) to the newest (top). A pixel column
 * shows the step with the most resident tokens under it; segments are stacked in logical order.
 */
import { num, percent, count } from "../shared/format.js";
import { FIELD, FIELD_NAMES } from "../shared/run.js";
import { css, mix, pack } from "../shared/theme.js";
import { windowFull } from "../shared/facts.js";
import { grid, putPixels, ratio, text } from "../shared/paint.js";
import { dropLabels, memoryRaster, peakSteps, scaleTop, visibleFolds } from "./memory_layout.js";

/** Colours of all segments, packed; index 0 is "nothing". */
function colours(run, theme, members) {
  const { segs } = run;
  const { nodes } = run.tables;
  const lut = new Uint32Array(segs.n + 1);
  const known = new Map(); // few distinct colours: owner, depth, result, muted
  for (let i = 0; i < segs.n; i++) {
    const node = segs.node[i];
    const [owner, depth] = node < 0 ? [0, 0] : [nodes.owner[node], Math.min(5, nodes.depth[node])];
    const result = segs.field[i] === FIELD.result;
    const muted = Boolean(members) && !(node >= 0 && members[node]);
    const key = owner * 32 + depth * 4 + (result ? 2 : 0) + (muted ? 1 : 0);
    if (!known.has(key)) {
      let c = theme.fill(owner, depth);
      if (result) c = mix(c, theme.ground, 0.72);
      known.set(key, pack(muted ? theme.muted(c) : c));
    }
    lut[i + 1] = known.get(key);
  }
  return lut;
}

export class MemoryLane {
  id = "memory";
  title = "Memory";
  constructor() {
    this.scratch = null;
  }

  height(ctx) {
    return ctx.token("lane-memory", 150);
  }

  layout(ctx, w, h) {
    const d = ratio();
    const [W, H] = [Math.round(w * d), Math.round(h * d)];
    const top = scaleTop(ctx.run);
    this.view = { W, H, d, top, ...memoryRaster(ctx.run, peakSteps(ctx.run, ctx.axis, W), W, H, top) };
  }

  draw(g, w, h, ctx) {
    const { run, theme, axis, members } = ctx;
    if (ctx.stale || !this.view) this.layout(ctx, w, h);
    const { W, H, raster, tops, d, top } = this.view;
    grid(g, w, h, theme, axis);
    const lut = colours(run, theme, members);
    const pixels = new Uint32Array(W * H);
    for (let p = 0; p < pixels.length; p++) pixels[p] = lut[raster[p]];
    edge(pixels, tops, W, H, Math.max(1, Math.round(d)), pack(theme.ink));
    putPixels(g, pixels, W, H, (this.scratch ??= document.createElement("canvas")));
    const Y = (v) => h - (v / top) * h;
    threads(g, w, ctx, Y);
    const taken = [];
    levels(g, w, h, ctx, Y, taken);
    ghost(g, w, h, ctx, Y, taken);
    for (const { i, x } of dropLabels(run, axis, w, w)) {
      if (members && !members[run.tables.prunes.node[i]]) continue;
      const y = Math.max(8, Y(run.tables.prunes.before[i]) - 7);
      if (taken.some((t) => x < t.x1 && x + 36 > t.x0 && Math.abs(y - t.y) < 12)) continue;
      text(g, theme, num(-run.tables.prunes.removed[i]), x + 3, y, { size: 10.5, weight: 600, colour: theme.ink, halo: theme.ground });
    }
  }

  /** The segment under a CSS pixel, or -1. */
  segmentAt(x, y) {
    if (!this.view) return -1;
    const { W, H, d, raster } = this.view;
    const [px, py] = [Math.floor(x * d), Math.floor(y * d)];
    return px < 0 || py < 0 || px >= W || py >= H ? -1 : raster[py * W + px] - 1;
  }

  hover(x, y, ctx) {
    const i = this.segmentAt(x, y);
    if (i < 0) return null;
    const { segs } = ctx.run;
    const n = ctx.run.alive(i, ctx.axis.stepAt(x));
    return { node: segs.node[i], text: [ctx.run.name(segs.node[i]), FIELD_NAMES[segs.field[i]], `${count(n, "token")} in memory`] };
  }

  readout({ run, step }) {
    if (!run.n) return ["", ""];
    const v = run.residentAt(step);
    const limit = run.meta.limit || run.meta.window;
    return [`${num(v)}\u2009tok`, limit ? `${percent(v / limit)} of window` : ""];
  }

  describe({ run, step }) {
    if (!run.n) return "Memory: nothing yet.";
    const { prunes } = run.tables;
    return `Memory over time: ${count(run.residentAt(step), "token")} now, peak ${num(run.peak)} of a window of ${num(run.meta.limit || run.meta.window)}, ${count(prunes.n, "fold")}.`;
  }
}

/** The ink line over the sawtooth, joined across columns. */
function edge(pixels, tops, W, H, thick, ink) {
  for (let x = 0; x < W; x++) {
    const before = x ? tops[x - 1] : tops[x];
    const y0 = Math.min(tops[x], before) - (thick - 1);
    const y1 = Math.max(tops[x], before);
    if (tops[x] >= H && before >= H) continue;
    for (let y = Math.max(0, y0); y <= Math.min(H - 1, y1); y++) pixels[y * W + x] = ink;
  }
}

/** A fold: a mark that hangs from the tree's edge, and a thread down to the drop it causes. */
function threads(g, w, { run, theme, axis, members }, Y) {
  const { prunes, nodes } = run.tables;
  for (const { i, x } of visibleFolds(run, axis, w, members)) {
    const node = prunes.node[i];
    const colour = theme.ownerColour(node < 0 ? 0 : nodes.owner[node]);
    g.fillStyle = css(colour);
    g.beginPath();
    g.moveTo(x - 4, 0);
    g.lineTo(x + 4, 0);
    g.lineTo(x, 5);
    g.fill();
    g.fillStyle = css(colour, 0.34);
    g.fillRect(x - 1, 5, 2, Math.max(0, Y(prunes.before[i]) - 6));
  }
}

/** Window and pool lines with their names. */
function levels(g, w, h, { run, theme, axis }, Y, taken) {
  const full = run.tables.prunes.n ? windowFull(run) : -1;
  const ringX = full < 0 ? -1 : axis.xEnd(full);
  const { window = 0, limit = window, pages = 0, page_size: size = 16 } = run.meta;
  const line = (v, label, dash, colour) => {
    const y = Math.round(Y(v)) + 0.5;
    if (!v || y < 1) return;
    g.strokeStyle = css(colour);
    g.lineWidth = 1;
    g.setLineDash(dash);
    g.beginPath();
    g.moveTo(0, y);
    g.lineTo(w, y);
    g.stroke();
    g.setLineDash([]);
    const at = y < 14 ? y + 8 : y - 7;
    if (taken.some((t) => Math.abs(t.y - at) < 11)) return;
    g.font = `400 10.5px ${theme.ui}`;
    const wide = g.measureText(label).width + 10;
    const left = ringX < 0 || ringX > wide + 6; // the ring's words go before
    text(g, theme, label, left ? 5 : w - 6, at, { size: 10.5, colour: theme.ink2, halo: theme.ground, align: left ? "left" : "right" });
    taken.push({ x0: left ? 0 : w - wide, x1: left ? wide : w, y: at });
  };
  line(limit, `${limit === window ? "native window" : "window"} ${num(limit)}`, [6, 3], theme.ink2);
  if (pages * size !== limit) line(pages * size, `pool ${num(pages * size)}`, [], theme.lineStrong);
}

/** What memory would hold had nothing been pruned, and the ring where the window would have been full. */
function ghost(g, w, h, { run, theme, axis, members }, Y, taken) {
  const { steps, prunes } = run.tables;
  if (!prunes.n) return;
  const from = Math.max(0, axis.xStart(prunes.step[0]));
  g.strokeStyle = css(theme.ink3, members ? 0.6 : 1);
  g.lineWidth = 1.25;
  g.setLineDash([1.5, 3]);
  g.beginPath();
  let off = -1;
  for (let x = from, on = false; x <= w; x += 2) {
    const y = Y(steps.unpruned[axis.stepAt(x)]);
    if (y < 0) {
      off = x;
      break;
    }
    on ? g.lineTo(x, y) : g.moveTo(x, y);
    on = true;
  }
  g.stroke();
  g.setLineDash([]);
  const limit = run.meta.limit || run.meta.window;
  const full = windowFull(run);
  const x = full < 0 ? -1 : axis.xEnd(full);
  if (x > 4 && x < w - 8 && Y(limit) >= 0) {
    const y = Math.round(Y(limit)) + 0.5;
    g.fillStyle = css(theme.ground);
    g.strokeStyle = css(theme.bad);
    g.lineWidth = 1.75;
    g.beginPath();
    g.arc(x, y, 3.5, 0, 7);
    g.fill();
    g.stroke();
    const label = w > 560 ? "unpruned, the window is full here" : "unpruned: full";
    g.font = `400 10.5px ${theme.ui}`;
    const wide = g.measureText(label).width + 8;
    const right = x + wide < w;
    const at = w > 560 ? y - 8 : y + 9;
    text(g, theme, label, right ? x + 8 : x - 8, at, { size: 10.5, colour: theme.bad, halo: theme.ground, align: right ? "left" : "right" });
    taken.push({ x0: right ? x : x - wide, x1: right ? x + wide : x, y: at });
  }
  if (off >= 0 && axis.whole && w > 640) {
    const total = steps.unpruned[run.n - 1];
    const label = `${num(total)} tokens in all, ${(total / limit).toFixed(1)}\u2009\u00d7 the window`;
    g.font = `400 10.5px ${theme.ui}`;
    const from = w - 12 - g.measureText(label).width;
    const y = taken.some((t) => t.x1 > from && Math.abs(t.y - 10) < 12) ? Math.round(Y(limit)) + 11 : 10;
    if (y > 10 && taken.some((t) => t.x1 > from && Math.abs(t.y - y) < 12)) return;
    text(g, theme, label, w - 6, y, { size: 10.5, colour: theme.ink2, align: "right", halo: theme.ground });
  }
}
