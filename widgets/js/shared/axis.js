/**
 * The one axis: a monotone warp from engine steps to a unit (tokens, steps, seconds) and from there to pixels.
 * Views place things by step or by row of `tokens` and ask for x. All functions are pure.
 */
import { duration, num } from "./format.js";

/** @typedef {"tokens" | "steps" | "wall"} Unit */
export const UNITS = /** @type {Unit[]} */ (["tokens", "steps", "wall"]);

/** Greatest i in [0, n) with a[i] <= v, or -1. @param {ArrayLike<number>} a @param {number} n @param {number} v */
export function lastAtMost(a, n, v) {
  let lo = 0;
  let hi = n;
  while (lo < hi) {
    const mid = (lo + hi) >> 1;
    if (a[mid] <= v) lo = mid + 1;
    else hi = mid;
  }
  return lo - 1;
}

export class Axis {
  /**
   * @param {{n: number, t: Float64Array, dt: Float32Array, tokens: Uint32Array}} steps
   * @param {Unit} unit
   */
  constructor(steps, unit) {
    this.unit = unit;
    this.n = steps.n;
    /** start[s] .. end[s]: what step s covers; start has one more entry, the end of all. */
    this.start = new Float64Array(steps.n + 1);
    this.end = new Float64Array(steps.n);
    for (let s = 0; s < steps.n; s++) {
      if (unit === "tokens") [this.start[s], this.end[s]] = [s ? steps.tokens[s - 1] : 0, steps.tokens[s]];
      else if (unit === "steps") [this.start[s], this.end[s]] = [s, s + 1];
      else [this.start[s], this.end[s]] = [steps.t[s], steps.t[s] + steps.dt[s]];
    }
    this.total = this.start[steps.n] = steps.n ? this.end[steps.n - 1] : 0;
    this.origin = steps.n ? this.start[0] : 0;
    this.tokens = steps.tokens;
    this.w = 1;
    this.show(this.origin, this.total);
  }

  /** Sets the visible span, kept within the run. @param {number} v0 @param {number} v1 */
  show(v0, v1) {
    const room = Math.max(this.total - this.origin, 1e-9);
    const span = Math.min(room, Math.max(v1 - v0, Math.min(room, this.unit === "wall" ? 0.02 : 8)));
    this.v0 = Math.min(Math.max(v0, this.origin), this.origin + room - span);
    this.v1 = this.v0 + span;
    return this;
  }

  get whole() {
    return this.v1 - this.v0 >= (this.total - this.origin) * 0.9999;
  }

  /** Value to pixel. @param {number} v */
  x(v) {
    return ((v - this.v0) / (this.v1 - this.v0)) * this.w;
  }

  /** Pixel to value. @param {number} x */
  value(x) {
    return this.v0 + (x / this.w) * (this.v1 - this.v0);
  }

  /** Where the picture stands after step s. @param {number} s */
  xEnd(s) {
    return this.n ? this.x(this.end[Math.min(s, this.n - 1)]) : 0;
  }

  /** Where step s begins. @param {number} s */
  xStart(s) {
    return this.x(this.start[Math.min(Math.max(s, 0), this.n)]);
  }

  /** Value of the left edge of row r of `tokens`. @param {number} r */
  rowValue(r) {
    if (this.unit === "tokens") return Math.min(r, this.total);
    const s = lastAtMost(this.tokens, this.n, r) + 1; // the step in which row r appeared
    if (s >= this.n) return this.total;
    const before = s ? this.tokens[s - 1] : 0;
    const share = (r - before) / Math.max(1, this.tokens[s] - before);
    return this.start[s] + (this.end[s] - this.start[s]) * share;
  }

  /** @param {number} r */
  xRow(r) {
    return this.x(this.rowValue(r));
  }

  /** The step that covers a value (the later one at a border, so that waits belong to the step before). */
  stepAtValue(v) {
    return Math.min(this.n - 1, Math.max(0, lastAtMost(this.start, this.n, v)));
  }

  /** The step that covers pixel x. @param {number} x */
  stepAt(x) {
    return this.stepAtValue(this.value(x));
  }

  /** The step whose end is nearest to pixel x: what a cursor put there means. @param {number} x */
  nearest(x) {
    const v = this.value(x);
    const s = this.stepAtValue(v);
    if (s > 0 && Math.abs(this.end[s - 1] - v) < Math.abs(this.end[s] - v)) return s - 1;
    return s;
  }

  /** The row of `tokens` under pixel x. @param {number} x */
  rowAt(x) {
    const v = this.value(x);
    if (this.unit === "tokens") return Math.max(0, Math.floor(v));
    const s = this.stepAtValue(v);
    const before = s ? this.tokens[s - 1] : 0;
    const share = (v - this.start[s]) / Math.max(1e-12, this.end[s] - this.start[s]);
    return Math.min(Math.max(before, this.tokens[s] - 1), before + Math.floor(share * (this.tokens[s] - before)));
  }

  /** Steps [a, b] under each of w pixel columns, flat. @param {number} w */
  columns(w) {
    const out = new Uint32Array(2 * w);
    const scale = (this.v1 - this.v0) / w;
    let s = this.stepAtValue(this.v0);
    for (let x = 0; x < w; x++) {
      const right = this.v0 + (x + 1) * scale;
      out[2 * x] = s;
      while (s + 1 < this.n && this.start[s + 1] < right) s++;
      out[2 * x + 1] = s;
    }
    return out;
  }

  /** Ticks at 1, 2 or 5 times a power of ten, `apart` pixels or more from each other. */
  ticks(apart = 86) {
    const least = ((this.v1 - this.v0) * apart) / this.w;
    if (!(least > 0) || !Number.isFinite(least)) return [];
    const power = 10 ** Math.floor(Math.log10(least));
    let unit = [1, 2, 5, 10].map((k) => k * power).find((u) => u >= least) ?? 10 * power;
    if (this.unit !== "wall") unit = Math.max(1, unit);
    const out = [];
    for (let v = Math.ceil(this.v0 / unit) * unit; v <= this.v1; v += unit) out.push({ v, x: this.x(v) });
    return out;
  }

  /** @param {number} v */
  label(v) {
    if (this.unit !== "wall") return num(v);
    if (v === 0) return "0\u2009s";
    return v < 1 && this.v1 - this.v0 < 2 ? `${Math.round(v * 1000)}\u2009ms` : `${Number(v.toFixed(3))}\u2009s`;
  }

  /** The cursor's flag. @param {number} s */
  flag(s) {
    const v = this.end[s] ?? 0;
    return this.unit === "wall" ? duration(v) : num(v);
  }
}
