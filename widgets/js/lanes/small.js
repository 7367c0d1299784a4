/** The lanes that are one line of drawing each: overview, ruler, tokens, steps. */
import { duration, num, probability } from "../shared/format.js";
import { PHASE, PHASE_NAMES } from "../shared/run.js";
import { css, mix } from "../shared/theme.js";
import { NEVER } from "../shared/wire.js";
import { tokenAt, waitAfter } from "../shared/facts.js";
import { Axis } from "../shared/axis.js";
import { clip, hatch, text } from "../shared/paint.js";
import { peakSteps } from "./memory_layout.js";

export class OverviewLane {
  id = "overview";
  title = "";
  wholeRun = true; // panning leaves it as it is
  height() {
    return 31;
  }

  draw(g, w, h, ctx) {
    const { run, theme } = ctx;
    const axis = (this.axis = new Axis(run.tables.steps, ctx.axis.unit));
    if (!run.n) return;
    axis.w = w;
    const steps = peakSteps(run, axis, Math.max(1, Math.floor(w)));
    const { resident, tokens } = run.tables.steps;
    const { nodes } = run.tables;
    g.fillStyle = css(mix(theme.ink3, theme.ground, 0.38));
    for (let x = 0; x < steps.length; x++) {
      const y = (resident[steps[x]] / (run.peak * 1.05)) * (h - 7);
      g.fillRect(x, h - 5 - y, 1, y);
    }
    for (let x = 0; x < steps.length; x++) {
      const node = run.nodeOfRow(tokens[steps[x]] - 1);
      g.fillStyle = css(theme.ownerColour(node < 0 ? 0 : nodes.owner[node]));
      g.fillRect(x, h - 4, 1, 4);
    }
  }

  describe() {
    return "The whole run in small; drag to move through it.";
  }
}

export class RulerLane {
  id = "ruler";
  title = "";
  height() {
    return 21;
  }

  draw(g, w, h, { theme, axis }) {
    g.fillStyle = css(theme.line);
    g.fillRect(0, h - 1, w, 1);
    for (const { v, x } of axis.ticks()) {
      g.fillStyle = css(theme.lineStrong);
      g.fillRect(Math.round(x), h - 5, 1, 5);
      if (x < w - 34) text(g, theme, axis.label(v), Math.round(x) + 4, h - 10, { size: 10.5, colour: theme.ink3 });
    }
  }

  describe({ axis }) {
    return `Ruler in ${axis.unit === "wall" ? "seconds" : axis.unit}.`;
  }
}

/** Mean and largest entropy of the tokens under each of W columns; -1 where none was sampled. */
export function entropyColumns(run, axis, W) {
  const mean = new Float32Array(W).fill(-1);
  const most = new Float32Array(W).fill(-1);
  const seen = new Uint32Array(W);
  const [a, b] = [axis.rowAt(0), Math.min(run.tokenCount - 1, axis.rowAt(axis.w))];
  const { entropy } = run.tables.tokens;
  for (let r = a; r <= b; r++) {
    const e = entropy[r];
    if (!(e >= 0)) continue;
    const x = Math.min(W - 1, Math.max(0, Math.floor((axis.xRow(r) / axis.w) * W)));
    mean[x] = seen[x] ? mean[x] + e : e;
    most[x] = Math.max(most[x], e);
    seen[x]++;
  }
  for (let x = 0; x < W; x++) if (seen[x]) mean[x] /= seen[x];
  return { mean, most };
}

const FULL = 2.2; // nats at the top of the lane

export class TokensLane {
  id = "tokens";
  title = "Tokens";
  height(ctx) {
    return ctx.token("lane-tokens", 40);
  }

  draw(g, w, h, ctx) {
    const { run, theme, axis } = ctx;
    const [a, b] = [axis.rowAt(0), Math.min(run.tokenCount - 1, axis.rowAt(w))];
    const each = w / Math.max(1, b - a);
    const words = each > 28 ? 15 : 0;
    const tall = h - words - 1;
    if (each > 2) this.bars(g, w, tall, ctx, a, b);
    else {
      const { mean, most } = entropyColumns(run, axis, Math.ceil(w));
      const y = (v) => Math.max(0.75, Math.min(1, v / FULL) * tall); // a certain token leaves a trace too
      g.fillStyle = css(theme.sequential(0.3));
      for (let x = 0; x < mean.length; x++) if (most[x] >= 0) g.fillRect(x, tall - y(most[x]), 1, y(most[x]) - y(mean[x]));
      g.fillStyle = css(theme.sequential(0.78));
      for (let x = 0; x < mean.length; x++) if (most[x] >= 0) g.fillRect(x, tall - y(mean[x]), 1, y(mean[x]));
    }
    if (words) {
      for (let r = a; r <= b; r++) {
        const x = axis.xRow(r);
        g.font = `400 10.5px ${theme.mono}`;
        const s = clip(g, run.word(run.tables.tokens.id[r]).trim(), axis.xRow(r + 1) - x - 3);
        if (s) text(g, theme, s, x + 1, h - 7, { size: 10.5, mono: true, colour: theme.ink2 });
      }
    }
    g.fillStyle = css(theme.line);
    g.fillRect(0, tall, w, 1);
  }

  bars(g, w, tall, { run, theme, axis }, a, b) {
    const { entropy } = run.tables.tokens;
    for (let r = a; r <= b; r++) {
      if (!(entropy[r] >= 0)) continue;
      const [x0, x1] = [axis.xRow(r), axis.xRow(r + 1)];
      const y = Math.max(0.75, Math.min(1, entropy[r] / FULL) * tall);
      g.fillStyle = css(theme.sequential(0.3 + 0.6 * Math.min(1, entropy[r] / FULL)));
      g.fillRect(x0, tall - y, Math.max(0.8, x1 - x0 - (x1 - x0 > 3 ? 1 : 0.3)), y);
    }
  }

  hover(x, y, { run, axis }) {
    const r = axis.rowAt(x);
    if (r < 0 || r >= run.tokenCount) return null;
    const { id, entropy, node } = run.tables.tokens;
    const h = entropy[r] >= 0 ? `entropy ${entropy[r].toFixed(2)}` : "not sampled";
    return { node: node[r], row: r, text: [`token ${num(r)}`, JSON.stringify(run.word(id[r])), h] };
  }

  readout({ run, step }) {
    const r = tokenAt(run, step);
    if (r < 0 || r >= run.tokenCount) return ["", ""];
    const { entropy, logprob } = run.tables.tokens;
    if (!(entropy[r] >= 0)) return ["given", "not sampled"];
    return [`H ${entropy[r].toFixed(2)}`, `p ${probability(Math.exp(logprob[r]))}`];
  }

  describe() {
    return "Entropy of each sampled token in nats: mean dark, largest light.";
  }
}

/** Phase of each stretch of steps in view with its pixels: [{phase, x0, x1, wait}], runs of one phase joined. */
export function phaseRuns(run, axis, W) {
  const { phase } = run.tables.steps;
  const out = [];
  const push = (kind, x0, x1) => {
    const last = out.at(-1);
    if (x1 <= x0) return;
    if (last && last.phase === kind && x0 - last.x1 < 0.01) last.x1 = x1;
    else out.push({ phase: kind, x0, x1 });
  };
  const [a, b] = [axis.stepAt(0), axis.stepAt(W)];
  for (let s = a; s <= b && s < run.n; s++) {
    push(phase[s], axis.xStart(s), axis.xEnd(s));
    if (axis.unit === "wall" && s + 1 < run.n) push(PHASE.wait, axis.xEnd(s), axis.xStart(s + 1));
  }
  return out;
}

export class StepsLane {
  id = "steps";
  title = "Steps";
  flat = true;
  height() {
    return 16;
  }

  draw(g, w, h, ctx) {
    const { run, theme, axis } = ctx;
    const bar = h - 7;
    const fills = [theme.phPrefill, theme.phDecode, theme.phExtend, theme.phReencode, theme.phWait];
    for (const { phase, x0, x1 } of phaseRuns(run, axis, w)) {
      const wide = Math.max(0.8, x1 - x0);
      if (phase === PHASE.wait && wide < 1.2) continue;
      g.fillStyle = css(fills[phase]);
      g.fillRect(x0, 0, wide, bar);
      if (phase !== PHASE.wait) continue;
      g.fillStyle = hatch(g, theme, theme.ink2, 0.7, 4);
      g.fillRect(x0, 0, wide, bar);
    }
    if (axis.unit !== "wall") this.marks(g, w, bar, ctx);
  }

  /** Waits and re-encodes have no width on tokens: a tick by duration, a triangle. */
  marks(g, w, bar, { run, theme, axis }) {
    const { nodes, prunes } = run.tables;
    g.fillStyle = css(theme.ink2);
    for (let i = 0; i < nodes.n; i++) {
      if (nodes.called[i] === NEVER) continue;
      const x = axis.xEnd(nodes.called[i]);
      const wide = 1 + Math.min(2.6, (nodes.tool_seconds[i] || 0) / 0.7);
      if (x >= 0 && x <= w) g.fillRect(x - wide / 2, bar + 1, wide, 5);
    }
    g.fillStyle = css(theme.phReencode);
    for (let i = 0; i < prunes.n; i++) {
      const x = axis.xStart(prunes.step[i]);
      if (x < 0 || x > w) continue;
      g.beginPath();
      g.moveTo(x - 3.5, bar + 6.5);
      g.lineTo(x + 3.5, bar + 6.5);
      g.lineTo(x, bar + 0.5);
      g.fill();
    }
  }

  hover(x, y, { run, axis }) {
    const s = axis.stepAt(x);
    const { steps } = run.tables;
    if (!run.n) return null;
    const wait = waitAfter(run, s);
    const waiting = axis.unit === "wall" && axis.value(x) > axis.end[s];
    const parts = [`step ${num(s)}`, waiting ? "wait" : PHASE_NAMES[steps.phase[s]], duration(waiting ? wait : steps.dt[s]), `${num(steps.rows[s])} in the batch`];
    return { node: -1, text: parts };
  }

  readout({ run, step }) {
    return run.n ? [PHASE_NAMES[run.tables.steps.phase[step]], ""] : ["", ""];
  }

  describe() {
    return "What each engine step did: prefill, decode, extend, re-encode; waits hatched.";
  }
}
