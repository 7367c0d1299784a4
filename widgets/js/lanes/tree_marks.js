/** What a bar of the tree bears: the strip of its fields; and bars as pixels, where there are too many. */
import { FIELD } from "../shared/run.js";
import { css, mix, pack } from "../shared/theme.js";
import { dots, putPixels, ratio } from "../shared/paint.js";

/** Fields of the node's own text: thought plain, result dotted, conclusion underlined, a diamond where the tool answered. */
export function fieldStrip(g, w, { run, theme, axis }, bar, now, base) {
  const { strip, band } = bar.t;
  const y = bar.y + band + 1;
  if (bar.many > 1) {
    g.fillStyle = css(mix(base, theme.ground, 0.8));
    g.fillRect(bar.x0, y, Math.max(1, bar.x1 - bar.x0), strip);
    return;
  }
  const full = theme.fill(bar.owner, bar.depth);
  for (const span of joined(run, run.nodeSegs[bar.node])) {
    const a = Math.max(-3, axis.xRow(span.first));
    const e = Math.min(w + 3, axis.xRow(Math.min(span.last, now)));
    if (e <= a) continue;
    const wide = Math.max(0.8, e - a - (e - a > 3 ? 0.6 : 0));
    const fill = (style) => {
      g.fillStyle = style;
      g.fillRect(a, y, wide, strip);
    };
    if (span.field === FIELD.result) {
      fill(css(mix(base, theme.ground, 0.28)));
      fill(dots(g, theme, base));
      if (bar.x1 - bar.x0 > 26) diamond(g, a, y + 2.5, theme);
    } else if (span.field === FIELD.conclusion) {
      fill(css(base));
      g.fillStyle = css(theme.ink);
      g.fillRect(a, y + strip - 1.5, wide, 1.5);
    } else if (span.field === FIELD.structure) fill(css(mix(base, theme.ground, 0.22)));
    else fill(css(span.field === FIELD.call ? mix(base, theme.ground, 0.5) : full));
  }
  const { nodes } = run.tables;
  if (nodes.lap[bar.node] && bar.depth === 1) {
    g.fillStyle = css(theme.ground);
    for (let k = 0; k < nodes.lap[bar.node]; k++) g.fillRect(bar.x0 + 2 + 3 * k, y, 1.5, strip);
  }
}

/** Rows of pixels, for more bars than can be drawn one by one; the hatch is laid by coordinate. */
export function barPixels(g, w, h, bars, { run, theme, known, members, live }, now, top, scratch) {
  const d = ratio();
  const [W, H] = [Math.round(w * d), Math.round(h * d)];
  const out = new Uint32Array(W * H);
  const { nodes } = run.tables;
  const pitch = Math.round(5 * d);
  const cache = new Map();
  const colour = (owner, kind, dim) => {
    const key = (owner * 3 + kind) * 2 + dim;
    if (!cache.has(key)) {
      const c = kind === 2 ? theme.pale(owner) : kind === 1 ? mix(theme.ownerColour(owner), theme.ground, 0.62) : theme.band(owner);
      cache.set(key, pack(dim ? theme.muted(c) : c));
    }
    return cache.get(key);
  };
  for (const bar of bars) {
    const future = nodes.first[bar.node] >= now;
    if (future && live) continue;
    const kind = future ? 2 : run.gone[bar.node] <= known ? 1 : 0;
    const c = colour(bar.owner, kind, members && !members[bar.node] ? 1 : 0);
    const [x0, x1] = [Math.max(0, Math.round(bar.x0 * d)), Math.min(W, Math.max(Math.round(bar.x1 * d), Math.round(bar.x0 * d) + 1))];
    const [y0, y1] = [Math.round((bar.y + top) * d), Math.min(H, Math.round((bar.y + top + bar.t.band) * d))];
    for (let y = y0; y < y1; y++) {
      if (kind !== 1) out.fill(c, y * W + x0, y * W + x1);
      else for (let x = x0; x < x1; x++) if ((x + y) % pitch === 0) out[y * W + x] = c;
    }
  }
  putPixels(g, out, W, H, scratch);
}

function diamond(g, x, y, theme) {
  g.fillStyle = css(theme.ink);
  g.beginPath();
  g.moveTo(x, y - 3.5);
  g.lineTo(x + 3.5, y);
  g.lineTo(x, y + 3.5);
  g.lineTo(x - 3.5, y);
  g.fill();
}

/** Segments as spans of rows of one node and field; neighbours in the stream are joined. */
export function joined(run, segs) {
  const out = [];
  for (const i of segs ?? []) {
    const first = run.order[run.segs.o0[i]];
    const last = run.order[run.segs.o1[i] - 1] + 1;
    const before = out.at(-1);
    const [node, field] = [run.segs.node[i], run.segs.field[i]];
    if (before && before.field === field && before.node === node && first <= before.last) before.last = last;
    else out.push({ node, field, first, last });
  }
  return out;
}
