/** Experts: layers over time. A cell is how much busier than the mean the busiest expert of a layer is. */
import { lastAtMost } from "../shared/axis.js";
import { pack } from "../shared/theme.js";
import { putPixels, ratio } from "../shared/paint.js";

const CELL = 3; // CSS px of a column
const STRONG = 8; // times the mean that take the darkest colour

/**
 * Busiest over mean load per layer and column, row-major [layers][columns]; 0 where nothing was routed.
 * @param {import("../shared/run.js").Run} run
 */
export function imbalance(run, axis, columns) {
  const { routes } = run.tables;
  const { layers, experts } = run.meta;
  const out = new Float32Array(layers * columns);
  const load = new Uint32Array(layers * experts);
  const spans = axis.columns(columns);
  let before = [-1, -1];
  for (let x = 0; x < columns; x++) {
    const [a, b] = [spans[2 * x], spans[2 * x + 1]];
    if (before[0] === a && before[1] === b) {
      for (let l = 0; l < layers; l++) out[l * columns + x] = out[l * columns + x - 1];
      continue;
    }
    before = [a, b];
    load.fill(0);
    for (let i = lastAtMost(routes.step, routes.n, a - 1) + 1; i < routes.n && routes.step[i] <= b; i++) {
      load[routes.layer[i] * experts + routes.expert[i]] += routes.count[i];
    }
    for (let l = 0; l < layers; l++) out[l * columns + x] = busiest(load, l * experts, experts);
  }
  return out;
}

function busiest(load, at, experts) {
  let [sum, most] = [0, 0];
  for (let e = at; e < at + experts; e++) {
    sum += load[e];
    if (load[e] > most) most = load[e];
  }
  return sum ? (most * experts) / sum : 0;
}

export class ExpertsLane {
  id = "experts";
  title = "Experts";

  /** Only where the net has experts and the trace their routes. */
  static present(run) {
    return run.tables.routes.n > 0 && run.meta.experts > 0;
  }

  height(ctx) {
    return ctx.token("lane-experts", 64);
  }

  draw(g, w, h, ctx) {
    const { run, theme } = ctx;
    const columns = Math.max(1, Math.ceil(w / CELL));
    if (ctx.stale || !this.values) this.values = imbalance(run, ctx.axis, columns);
    const d = ratio();
    const [W, H] = [Math.round(w * d), Math.round(h * d)];
    const pixels = new Uint32Array(W * H);
    const { layers } = run.meta;
    const heat = theme.heat.map(pack);
    for (let y = 0; y < H; y++) {
      const l = Math.min(layers - 1, Math.floor((y * layers) / H));
      for (let x = 0; x < W; x++) {
        const v = this.values[l * columns + Math.min(columns - 1, Math.floor(x / d / CELL))];
        if (v > 0) pixels[y * W + x] = heat[Math.min(63, Math.floor((Math.max(0, v - 1) / (STRONG - 1)) * 63))];
      }
    }
    putPixels(g, pixels, W, H, (this.scratch ??= document.createElement("canvas")));
  }

  hover(x, y, { run }, h) {
    const { layers } = run.meta;
    const columns = this.values.length / layers;
    const l = Math.min(layers - 1, Math.floor((y * layers) / h));
    const v = this.values[l * columns + Math.min(columns - 1, Math.floor(x / CELL))];
    return { node: -1, text: [`layer ${l}`, v ? `busiest expert ${v.toFixed(1)}\u2009\u00d7 the mean` : "nothing routed"] };
  }

  readout({ run, step }) {
    const { routes } = run.tables;
    const { layers, experts } = run.meta;
    const load = new Uint32Array(layers * experts);
    for (let i = lastAtMost(routes.step, routes.n, step - 64) + 1; i < routes.n && routes.step[i] <= step; i++) {
      load[routes.layer[i] * experts + routes.expert[i]] += routes.count[i];
    }
    let sum = 0;
    for (let l = 0; l < layers; l++) sum += busiest(load, l * experts, experts);
    return [`${(sum / layers).toFixed(1)}\u2009\u00d7 mean`, `${layers} layers`];
  }

  describe({ run }) {
    return `Load of ${run.meta.experts} experts in ${run.meta.layers} layers over time: busiest over mean.`;
  }
}
