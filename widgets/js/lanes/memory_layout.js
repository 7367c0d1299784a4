/** Where memory's segments stand: stacked in logical order, a column a step. Pure. */
import { NEVER } from "../shared/wire.js";

/** The step to draw in each of W columns. @returns {Uint32Array} */
export function peakSteps(run, axis, W) {
  const spans = axis.columns(W);
  const out = new Uint32Array(W);
  for (let x = 0; x < W; x++) {
    const [a, b] = [spans[2 * x], spans[2 * x + 1]];
    out[x] = a === b ? a : run.peaks.argmax(a, b + 1);
  }
  return out;
}

/**
 * Tokens at the top of the lane: fixed by window and pool so that runs compare. A pool far larger than the
 * window does not count, and a run that hardly fills the lane is drawn larger.
 */
export function scaleTop(run) {
  const { window = 0, limit = window, pages = 0, page_size: size = 16 } = run.meta;
  const pool = pages * size;
  const room = Math.max(limit, pool <= 1.35 * limit ? pool : 0, 1);
  const unpruned = run.n ? run.tables.steps.unpruned[run.n - 1] : 0;
  const filled = Math.max(run.peak, Math.min(unpruned, room));
  return filled < 0.3 * room ? Math.max(64, filled * 1.4) : 1.14 * Math.max(room, run.peak);
}

/**
 * Index raster: segment + 1 in every device pixel, 0 where nothing lies; and the top pixel of each column.
 * @param {Uint32Array} columns step of each column, ascending
 */
export function memoryRaster(run, columns, W, H, top) {
  const raster = new Int32Array(W * H);
  const tops = new Int32Array(W).fill(H);
  const { segs } = run;
  const byBirth = birthOrder(segs);
  let next = 0;
  let alive = [];
  let death = NEVER; // the first step at which one of `alive` is gone
  const k = H / top;
  for (let x = 0; x < W; ) {
    const s = columns[x];
    let x1 = x + 1;
    while (x1 < W && columns[x1] === s) x1++;
    for (; next < segs.n && segs.born0[byBirth[next]] <= s; next++) {
      const i = byBirth[next];
      if (segs.born0[i] === NEVER || segs.died[i] <= s) continue;
      insert(alive, i);
      death = Math.min(death, segs.died[i]);
    }
    if (death <= s) {
      alive = alive.filter((i) => segs.died[i] > s);
      death = alive.reduce((d, i) => Math.min(d, segs.died[i]), NEVER);
    }
    let sum = 0;
    let y1 = H;
    for (const i of alive) {
      sum += segs.born1[i] <= s ? segs.o1[i] - segs.o0[i] : run.alive(i, s);
      const y0 = Math.max(0, H - Math.round(sum * k));
      if (x1 === x + 1) for (let p = y0 * W + x; p < y1 * W + x; p += W) raster[p] = i + 1;
      else for (let y = y0; y < y1; y++) raster.fill(i + 1, y * W + x, y * W + x1);
      y1 = y0;
    }
    tops.fill(y1, x, x1);
    x = x1;
  }
  return { raster, tops };
}

function birthOrder(segs) {
  const order = Uint32Array.from({ length: segs.n }, (_, i) => i);
  for (let i = 1; i < segs.n; i++) if (segs.born0[i] < segs.born0[i - 1]) return order.sort((a, b) => segs.born0[a] - segs.born0[b]);
  return order;
}

function insert(list, i) {
  if (!list.length || list[list.length - 1] < i) return void list.push(i);
  let lo = 0;
  let hi = list.length;
  while (lo < hi) {
    const mid = (lo + hi) >> 1;
    if (list[mid] < i) lo = mid + 1;
    else hi = mid;
  }
  list.splice(lo, 0, i);
}

/** Upper and lower pixel of flagged segments in each column; -1 where none. Drawn as the selection's outline. */
export function bandOf(raster, W, H, isMember) {
  const upper = new Int32Array(W).fill(-1);
  const lower = new Int32Array(W).fill(-1);
  for (let y = 0, p = 0; y < H; y++) {
    for (let x = 0; x < W; x++, p++) {
      if (!raster[p] || !isMember[raster[p] - 1]) continue;
      if (upper[x] < 0) upper[x] = y;
      lower[x] = y + 1;
    }
  }
  return { upper, lower };
}

/** Drops worth a number: largest first, 52 px apart, none under 5 % of the window. */
export function dropLabels(run, axis, w, until) {
  const { prunes } = run.tables;
  const least = 0.05 * (run.meta.limit || run.meta.window || 0);
  const rows = Array.from({ length: prunes.n }, (_, i) => i).sort((a, b) => prunes.removed[b] - prunes.removed[a]);
  const placed = [];
  for (const i of rows) {
    if (prunes.removed[i] < least || placed.length > Math.max(3, w / 90)) break;
    const x = axis.xStart(prunes.step[i]);
    if (x < 14 || x > until - 40 || placed.some((p) => Math.abs(p.x - x) < 52)) continue;
    placed.push({ i, x });
  }
  return placed;
}

/** Folds in view that have room: largest first, 9 px apart; with a selection only its own. */
export function visibleFolds(run, axis, w, members) {
  const { prunes } = run.tables;
  const inside = [];
  for (let i = 0; i < prunes.n; i++) {
    const x = Math.round(axis.xStart(prunes.step[i]));
    const node = prunes.node[i];
    if (x >= 0 && x <= w && !(members && !(node >= 0 && members[node]))) inside.push({ i, x });
  }
  if (inside.length < w / 24) return inside;
  const slots = new Uint8Array(Math.ceil(w / 9) + 2);
  return inside
    .sort((a, b) => prunes.removed[b.i] - prunes.removed[a.i])
    .filter(({ x }) => {
      const k = Math.floor(x / 9) + 1;
      if (slots[k - 1] + slots[k] + slots[k + 1]) return false;
      return (slots[k] = 1);
    });
}
