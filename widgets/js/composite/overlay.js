/** What moves: cursor, hover, brush, veils, the selection's outline, previews. One canvas over all lanes. */
import { duration, num } from "../shared/format.js";
import { css } from "../shared/theme.js";
import { fit, hatch, ring, text } from "../shared/paint.js";
import { losses, spanFacts } from "../shared/facts.js";
import { bandOf } from "../lanes/memory_layout.js";

/** @param {any} view the composite's View */
export function drawOverlay(view) {
  const { el, ctx, axis, theme } = view;
  const { width: w, height: h } = view.plotSize;
  const g = fit(el.over.firstChild, w, h, false);
  const [x0, x1] = changedPart(view, w, h);
  g.clearRect(x0, 0, x1 - x0, h);
  if (!ctx.run.n) return;
  g.save();
  g.beginPath();
  g.rect(x0, 0, x1 - x0, h);
  g.clip();
  drawParts(g, view, w, h);
  g.restore();
}

/** What a moving cursor changes: the strip between its two places and their flags. Else everything. */
function changedPart(view, w, h) {
  const { axis, ctx, state, theme } = view;
  const scene = [w, h, axis.v0, axis.v1, axis.unit, axis.total, theme.ink, ctx.live, view.bookmarks].join();
  const plain = !ctx.members && !state.span && !view.preview && !state.hover && axis.whole;
  const x = axis.n ? axis.xEnd(ctx.step) : 0;
  const before = view.overlayBefore;
  view.overlayBefore = plain ? { scene, x } : null;
  if (!plain || before?.scene !== scene) return [0, w];
  return [Math.max(0, Math.floor(Math.min(x, before.x)) - 48), Math.min(w, Math.ceil(Math.max(x, before.x)) + 48)];
}

function drawParts(g, view, w, h) {
  const { ctx, axis, theme } = view;
  const ruler = view.lane("ruler");
  const top = ruler ? ruler.top + ruler.h : 0;
  const overview = view.lane("overview");
  if (overview) window(g, overview, axis, theme, w);
  const x = axis.xEnd(ctx.step);
  if (!ctx.live && x < w) veilFuture(g, view, Math.max(0, x), w);
  if (ctx.members) selection(g, view, w);
  if (view.state.span) brush(g, view, w, h, top);
  if (view.preview) preview(g, view, x, w);
  holes(g, view, w, top, h);
  flags(g, view, ruler, w);
  const hover = view.state.hover;
  if (hover) {
    g.fillStyle = css(theme.ink, 0.4);
    g.fillRect(Math.round(hover.x), top, 1, h - top);
    hovered(g, view, hover.node);
  }
  if (x >= -1 && x <= w + 1) cursor(g, view, x, w, h, ruler);
}

/** The tree draws its own future pale; over the other lanes lies a veil, so that scrubbing leaves them alone. */
function veilFuture(g, { lanes, theme }, x, w) {
  g.fillStyle = css(theme.ground, 0.68);
  for (const l of lanes) if (l.name !== "tree" && l.name !== "ruler" && l.name !== "overview") g.fillRect(x, l.top, w - x, l.h);
}

function cursor(g, view, x, w, h, ruler) {
  const { theme, axis, ctx } = view;
  const overview = view.lane("overview");
  const from = ruler ? ruler.top : 0;
  const at = Math.min(w - 0.75, Math.max(0.75, x));
  g.fillStyle = css(theme.cursor);
  g.fillRect(at - 0.75, from, 1.5, h - from);
  if (overview?.lane.axis) g.fillRect(overview.lane.axis.xEnd(ctx.step) - 0.75, overview.top, 1.5, overview.h);
  const memory = view.lane("memory");
  if (memory?.lane.view) {
    const level = (v) => memory.top + memory.h * (1 - v / memory.lane.view.top);
    const y = level(ctx.run.residentAt(ctx.step));
    const { leaving } = ctx.run;
    if (ctx.known > ctx.step) text(g, theme, num(-leaving), at - 7, (y + level(ctx.run.residentAt(ctx.step) + leaving)) / 2, { size: 10.5, weight: 600, colour: theme.ink, halo: theme.ground, align: "right" });
    g.fillStyle = css(theme.ground);
    g.strokeStyle = css(theme.cursor);
    g.lineWidth = 1.5;
    g.beginPath();
    g.arc(at, y, 3.25, 0, 7);
    g.fill();
    g.stroke();
  }
  if (ruler) flag(g, theme, axis.flag(ctx.step), x, ruler.top + 1, w, theme.ink, theme.surface);
}

/** A filled flag with words, kept inside the plot. */
function flag(g, theme, words, x, y, w, back, ink) {
  g.font = `600 10.5px ${theme.ui}`;
  const wide = g.measureText(words).width + 12;
  const left = Math.round(Math.min(w - wide, Math.max(0, x - wide / 2)));
  g.fillStyle = css(back);
  g.fillRect(left, y, wide, 17);
  text(g, theme, words, left + wide / 2, y + 9, { size: 10.5, weight: 600, colour: ink, align: "center" });
}

/** Which part of the run the lanes show. */
function window(g, { top, h, lane }, axis, theme, w) {
  if (axis.whole || !lane.axis) return;
  const [x0, x1] = [lane.axis.x(axis.v0), lane.axis.x(axis.v1)];
  g.fillStyle = css(theme.ground, 0.7);
  g.fillRect(0, top, x0, h - 1);
  g.fillRect(x1, top, w - x1, h - 1);
  g.strokeStyle = css(theme.ink2);
  g.lineWidth = 1.5;
  g.strokeRect(x0 - 0.75, top + 0.75, Math.max(4, x1 - x0 + 1.5), h - 2.5);
}

function selection(g, view, w) {
  const { ctx, theme, state } = view;
  const tree = view.lane("tree");
  const bar = tree?.lane.bars?.find((b) => b.node === state.node);
  if (bar) {
    const { row, strip } = bar.t;
    const height = strip ? row - 1 : row - 0.5;
    ring(g, theme, (q) => q.rect(Math.max(-3, bar.x0 - 0.5), tree.top + 5 + bar.y - 0.5, Math.max(3, Math.min(w + 6, bar.x1 - Math.max(-3, bar.x0))), height));
  }
  const memory = view.lane("memory");
  if (memory?.lane.view) outline(g, memory, theme, memberSegs(ctx, ctx.members), 1.75, 2.25);
}

function memberSegs({ run }, members) {
  return Uint8Array.from({ length: run.segs.n }, (_, i) => (run.segs.node[i] >= 0 ? members[run.segs.node[i]] : 0));
}

/** The outline of flagged segments over their whole life. */
function outline(g, { lane, top }, theme, flags, width, halo) {
  const { raster, W, H, d } = lane.view;
  const { upper, lower } = bandOf(raster, W, H, flags);
  for (let x = 0; x < W; x++) {
    if (upper[x] < 0) continue;
    let end = x;
    while (end < W && upper[end] >= 0) end++;
    ring(g, theme, (q) => {
      q.moveTo(x / d, top + lower[x] / d);
      for (let i = x; i < end; i++) for (const k of [i, i + 1]) q.lineTo(k / d, top + upper[i] / d);
      for (let i = end - 1; i >= x; i--) for (const k of [i + 1, i]) q.lineTo(k / d, top + lower[i] / d);
      q.closePath();
    }, width, halo);
    x = end;
  }
}

function hovered(g, view, node) {
  const tree = view.lane("tree");
  if (node < 0 || node === undefined || node === view.state.node) return;
  const bar = tree?.lane.bars?.find((b) => b.node === node);
  if (!bar) return;
  ring(g, view.theme, (q) => q.rect(bar.x0 - 0.5, tree.top + 5 + bar.y - 0.5, Math.max(3, bar.x1 - bar.x0), bar.t.row - 1), 1, 1.5);
}

function brush(g, view, w, h, top) {
  const { axis, theme, state, ctx } = view;
  const [a, b] = state.span;
  const [x0, x1] = [axis.xStart(a), axis.xEnd(b)];
  g.fillStyle = css(theme.ground, 0.72);
  g.fillRect(0, top, Math.max(0, x0), h - top);
  g.fillRect(Math.min(w, x1), top, Math.max(0, w - x1), h - top);
  g.fillStyle = css(theme.accent);
  for (const x of [x0, x1]) if (x > -2 && x < w + 2) g.fillRect(Math.round(x) - 0.75, top - 20, 1.5, h - top + 20);
  const f = spanFacts(ctx.run, a, b);
  const words = `${num(f.steps)} steps, ${num(f.tokens)} tokens, ${duration(f.seconds)}, ${num(f.pruned)} pruned`;
  if (top) flag(g, theme, words, (x0 + x1) / 2, top - 20, w, theme.accent, theme.accentInk);
}

/** Detail that was dropped: a hole over all lanes with its size, nothing interpolated. */
function holes(g, { ctx, axis, theme }, w, top, h) {
  for (const { step, text: words } of losses(ctx.run)) {
    const [x0, x1] = [axis.xStart(step), axis.xEnd(step)];
    if (x1 < 0 || x0 > w) continue;
    const wide = Math.max(6, x1 - x0);
    g.fillStyle = css(theme.ground);
    g.fillRect(x0, top, wide, h - top);
    g.fillStyle = hatch(g, theme, theme.warn, 0.6);
    g.fillRect(x0, h - 22, wide, 22);
    g.font = `500 10.5px ${theme.ui}`;
    const label = `${words} not recorded`;
    const left = x0 + wide + g.measureText(label).width + 8 < w;
    text(g, theme, label, left ? x0 + wide + 4 : x0 - 4, top + 10, { size: 10.5, weight: 500, colour: theme.warn, halo: theme.ground, align: left ? "left" : "right" });
  }
}

/** Where the sawtooth would land after a prune. */
function preview(g, view, x, w) {
  const { theme, preview: p } = view;
  const memory = view.lane("memory");
  if (!memory?.lane.view || !p.removed) return;
  const y = memory.top + memory.h * (1 - p.after / memory.lane.view.top);
  const y0 = memory.top + memory.h * (1 - (p.after + p.removed) / memory.lane.view.top);
  const end = x + 120 < w ? x + 120 : x - 120; // live, nothing lies beyond the cursor
  const at = Math.min(w - 1, x);
  g.strokeStyle = css(theme.ground);
  g.lineWidth = 4.5;
  for (let pass = 0; pass < 2; pass++) {
    g.beginPath();
    g.moveTo(at, y0 + 4);
    g.lineTo(at, y);
    g.lineTo(end, y);
    g.stroke();
    [g.strokeStyle, g.lineWidth] = [css(theme.accent), 2];
  }
  const again = p.reencoded ? `; ${num(p.reencoded)} again` : p.rotated ? `; ${num(p.rotated)} turned` : "";
  const words = `${num(-p.removed)} tok, \u2248\u2009${num(-p.pages)} pages${again}`;
  g.font = `600 10.5px ${theme.ui}`;
  const wide = g.measureText(words).width + 12;
  flag(g, theme, words, x + wide / 2 + 2, Math.max(memory.top + 2, y - 22), w, theme.accent, theme.accentInk);
}

/** Notes and refused commands on the ruler. */
function flags(g, { ctx, axis, theme, bookmarks }, ruler, w) {
  if (!ruler) return;
  const { marks } = ctx.run.tables;
  const noted = [];
  for (let i = 0; i < marks.n; i++) if (marks.kind.get(i) === "note") noted.push({ step: marks.step[i], note: true });
  for (const { step, note } of [...noted, ...bookmarks.map((s) => ({ step: s, note: false }))]) {
    const x = Math.round(axis.xEnd(step));
    if (x < 0 || x > w) continue;
    const y = ruler.top + 4;
    g.fillStyle = css(theme.ink2);
    g.fillRect(x, y, 1.25, ruler.h - 5);
    g.beginPath();
    g.moveTo(x, y);
    g.lineTo(x + 7, y + 3.5);
    g.lineTo(x, y + 7);
    g.fill();
    if (!note) continue;
    g.fillStyle = css(theme.ground);
    g.beginPath();
    g.arc(x + 2.6, y + 3.5, 1.1, 0, 7);
    g.fill();
  }
}
