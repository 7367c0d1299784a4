/** Tree: width is tokens, row is depth, bar is node. Solid: in memory. Hatched: pruned. Pale: to come. */
import { count, num } from "../shared/format.js";
import { FIELD, FIELD_NAMES } from "../shared/run.js";
import { css, mix } from "../shared/theme.js";
import { stateOf, writingAt } from "../shared/facts.js";
import { clip, grid, hatch, text } from "../shared/paint.js";
import { barPixels, fieldStrip, joined } from "./tree_marks.js";
import { barAt, rowsOf, tracksOf, treeBars } from "./tree_layout.js";

const TOP = 5;
const MANY = 2000; // bars in view beyond which they are written as pixels

export class TreeLane {
  id = "tree";
  title = "Tree";
  followsCursor = true;

  height(ctx) {
    const roomy = ctx.token("row", 24);
    this.layout = tracksOf(ctx.run, ctx.token("lane-tree", 260), roomy);
    this.rows = rowsOf(ctx.run, this.layout.tracks);
    this.texts = this.layout.tracks.map((t) => joined(ctx.run, ctx.run.outside(t.branch, t.lift)));
    this.bars = null;
    return Math.max(this.layout.height, 2 * roomy) + TOP + 5;
  }

  draw(g, w, h, ctx) {
    const { run, axis, theme, folded } = ctx;
    if (ctx.stale || !this.bars) this.bars = treeBars(run, axis, this.layout, this.rows, folded);
    const now = Math.min(run.tokenCount, run.n ? run.tables.steps.tokens[ctx.step] : 0);
    const [x0, x1] = this.dirty(ctx, now, w);
    if (x1 <= x0) return;
    g.save();
    g.beginPath();
    g.rect(x0, 0, x1 - x0, h);
    g.clip();
    g.clearRect(x0, 0, x1 - x0, h);
    grid(g, w, h, theme, axis);
    g.translate(0, TOP);
    this.layout.tracks.forEach((t, i) => this.track(g, w, ctx, t, i, now));
    if (this.bars.length > MANY) barPixels(g, w, h, this.bars, ctx, now, TOP, (this.scratch ??= document.createElement("canvas")));
    else for (const bar of this.bars) if (bar.x1 >= x0 - 4 && bar.x0 <= x1 + 4) this.bar(g, w, ctx, bar, now);
    g.restore();
  }

  /** The stretch that looks different now: all of it, or where a scrub changed a bar's state. */
  dirty(ctx, now, w) {
    const { nodes } = ctx.run.tables;
    const before = this.states;
    const states = (this.states = new Uint8Array(this.bars.length));
    const at = Math.round(ctx.axis.xRow(now));
    const was = this.at;
    this.at = at;
    let [x0, x1] = [Math.min(at, was) - 4, Math.max(at, was) + 4];
    this.bars.forEach((bar, i) => {
      const i0 = nodes.first[bar.node];
      states[i] = i0 >= now ? 2 : ctx.run.gone[bar.node] <= ctx.known ? 1 : 0;
      if (before?.[i] === states[i]) return;
      x0 = Math.min(x0, bar.x0 - 4);
      x1 = Math.max(x1, bar.x1 + 4);
    });
    const partial = ctx.onlyStep && before?.length === states.length && Number.isFinite(was) && !ctx.live;
    return partial ? [Math.max(0, Math.floor(x0)), Math.min(w, Math.ceil(x1))] : [0, w];
  }

  /** A branch's own text (prompt, answer, free text) in its first row, and what it shares with its parent. */
  track(g, w, ctx, t, index, now) {
    const { run, theme, axis } = ctx;
    if (index && this.layout.rails) {
      g.fillStyle = css(theme.line);
      g.fillRect(0, t.y - 5, w, 1);
    }
    if (t.parent >= 0) {
      const opened = run.tables.branches.opened[t.branch] <= ctx.step;
      if (ctx.live && !opened) return;
      g.globalAlpha = opened ? 1 : 0.25;
      this.rail(g, w, ctx, t);
      g.globalAlpha = 1;
    }
    for (const { node, field, first, last } of this.texts[index]) {
      const [x0, x1] = [axis.xRow(first), axis.xRow(last)];
      if (x1 < 0 || x0 > w || x1 - x0 < 0.4) continue;
      const future = first >= now;
      if (future && ctx.live) continue;
      const owner = node < 0 ? 0 : run.tables.nodes.owner[node];
      const base = theme.ownerColour(owner);
      const xn = Math.min(x1, axis.xRow(Math.max(now, first)));
      g.fillStyle = css(theme.pale(owner));
      g.fillRect(x0, t.y, x1 - x0 - 1, t.band);
      if (future) continue;
      g.globalAlpha = ctx.members && !(node >= 0 && ctx.members[node]) ? 0.45 : 1;
      g.fillStyle = owner ? css(theme.band(owner)) : css(mix(base, theme.ground, 0.24));
      g.fillRect(x0, t.y, Math.max(0.8, xn - x0 - (xn === x1 ? 1 : 0)), t.band);
      g.fillStyle = css(field === FIELD.answer ? theme.ink : base);
      if (t.strip) g.fillRect(x0, t.y + t.band + 1, Math.max(0.8, xn - x0 - 1), t.strip);
      const room = Math.min(x1, w) - Math.max(0, x0) - 10;
      g.font = `500 11px ${theme.ui}`;
      const shown = room > 34 && t.band >= 12 ? clip(g, this.rootLabel(run, node, field), room) : "";
      if (shown) text(g, theme, shown, Math.max(0, x0) + 5, t.y + t.band / 2 + 0.5, { weight: 500, colour: owner ? theme.ink : theme.ink2 });
      g.globalAlpha = 1;
    }
  }

  rootLabel(run, root, field) {
    const { nodes } = run.tables;
    if (root < 0 || field === FIELD.prompt || field === FIELD.answer) return FIELD_NAMES[field];
    return run.name(root) === "top level" ? FIELD_NAMES[field] : `${nodes.path.get(root)}  ${nodes.title.get(root)}`.trim();
  }

  /** The shared prefix of a fork: a double rail up to where it left, a dotted thread to where it began. */
  rail(g, w, { run, theme, axis }, t) {
    const named = t.band >= 12 && this.layout.rails;
    const y = t.y + (named ? 4 : t.band / 2);
    const x = axis.xRow(Math.min(t.at, run.tokenCount));
    const begin = axis.xRow(run.order[run.branchStart[t.branch]]);
    g.fillStyle = css(theme.ink3);
    if (this.layout.rails) for (const up of [-2, 1]) g.fillRect(0, y + up, Math.max(0, Math.min(x, w)), 1.25);
    g.strokeStyle = css(theme.ink3);
    g.setLineDash([2, 2.5]);
    g.beginPath();
    g.moveTo(x + 3, y);
    g.lineTo(begin - 1, y);
    g.stroke();
    g.setLineDash([]);
    g.fillStyle = css(theme.ink);
    g.beginPath();
    g.arc(x, y, Math.min(3, t.band / 2), 0, 7);
    g.fill();
    if (!named) return;
    const { branches } = run.tables;
    const label = `fork at token ${num(t.at)}, ${count(branches.reused[t.branch], "token")} shared`;
    g.font = `400 10.5px ${theme.ui}`;
    if (x > g.measureText(label).width + 12) text(g, theme, label, 8, y + 11, { size: 10.5, colour: theme.ink2 });
  }

  bar(g, w, ctx, bar, now) {
    const { run, theme, axis, members, live } = ctx;
    const { band, strip } = bar.t;
    const { nodes } = run.tables;
    const i = bar.node;
    const [x0, x1] = [Math.max(-3, bar.x0), Math.min(w + 3, bar.x1)];
    const wide = Math.max(0.7, x1 - x0);
    const base = theme.ownerColour(bar.owner);
    const future = nodes.first[i] >= now;
    if (future && live) return;
    const gap = wide > 4 ? 1 : 0;
    g.globalAlpha = members && !members[i] ? 0.4 : 1;
    if (future) {
      g.fillStyle = css(theme.pale(bar.owner));
      g.fillRect(x0, bar.y, wide - gap, band);
      if (bar.row === 1 && wide > 60 && band >= 12) text(g, theme, nodes.path.get(i), Math.max(0, x0) + 5, bar.y + band / 2 + 0.5, { colour: theme.ink3 });
      g.globalAlpha = 1;
      return;
    }
    const pruned = run.gone[i] <= ctx.known;
    const xn = Math.min(x1, axis.xRow(now)); // an open node is drawn up to now
    if (xn < x1 && !live) {
      g.fillStyle = css(theme.pale(bar.owner));
      g.fillRect(xn, bar.y, x1 - xn - gap, band);
    }
    if (pruned) {
      g.fillStyle = css(mix(base, theme.ground, 0.06));
      g.fillRect(x0, bar.y, wide - gap, band);
      g.fillStyle = hatch(g, theme, mix(base, theme.ground, 0.62));
      g.fillRect(x0, bar.y, wide - gap, band);
    } else {
      g.fillStyle = css(theme.band(bar.owner));
      g.fillRect(x0, bar.y, Math.max(0.7, xn - x0 - (xn < x1 ? 0 : gap)), band);
      if (strip) fieldStrip(g, w, ctx, bar, now, base);
    }
    if (wide > 22 && band >= 12) this.label(g, w, ctx, bar, pruned, live ? xn : bar.x1, base);
    g.globalAlpha = 1;
  }

  label(g, w, { run, theme, folded }, bar, pruned, end, base) {
    const { band } = bar.t;
    const { nodes } = run.tables;
    const x = Math.max(bar.x0, 0) + 5;
    const room = Math.min(end, w) - x - 5;
    if (room < 10) return;
    const top = bar.row === 1;
    const path = nodes.path.get(bar.node);
    const title = nodes.title.get(bar.node);
    const full = bar.many > 1 ? `${bar.many} nodes` : top || !title ? `${path}  ${title}`.trim() : title;
    g.font = `${top ? 600 : 400} 11px ${theme.ui}`;
    let shown = "";
    if (room > 48 || g.measureText(full).width <= room) shown = clip(g, full, room);
    else if (g.measureText(path).width <= room) shown = path;
    // the hatch must stay to be seen: a pruned bar bears a name only beside it
    if (pruned && shown && g.measureText(shown).width + 22 > room) shown = g.measureText(path).width + 22 <= room ? path : "";
    if (folded.has(bar.node)) shown = `${path} +${num(run.children[bar.node].length)}`;
    if (!shown) return;
    if (pruned) {
      g.fillStyle = css(theme.ground);
      g.fillRect(Math.max(bar.x0, 0), bar.y, g.measureText(shown).width + 10, band);
      g.fillStyle = css(mix(base, theme.ground, 0.7));
      g.fillRect(Math.max(bar.x0, 0), bar.y, 1.5, band);
    }
    text(g, theme, shown, x, bar.y + band / 2 + 0.5, { weight: top ? 600 : 400, colour: pruned ? theme.ink2 : theme.ink });
  }

  hover(x, y, ctx) {
    const bar = this.bars && barAt(this.bars, x, y - TOP);
    if (!bar) return null;
    if (bar.many > 1) return { node: bar.node, text: [`${bar.many} nodes, zoom in`] };
    const { run } = ctx;
    return { node: bar.node, text: [run.name(bar.node), count(run.all[bar.node], "token"), stateOf(run, bar.node, ctx.known)] };
  }

  readout({ run, step }) {
    const { node, field } = writingAt(run, step);
    if (node < 0) return ["", ""];
    return [run.tables.nodes.path.get(node) || "top level", FIELD_NAMES[field] || "structure"];
  }

  describe({ run, step, known }) {
    const { nodes } = run.tables;
    let [held, gone] = [0, 0];
    for (let i = 0; i < nodes.n; i++) if (nodes.opened[i] <= step) run.gone[i] <= known ? gone++ : held++;
    return `Tree of ${count(nodes.n, "node")}, depth ${run.maxDepth}: ${num(held)} in memory, ${num(gone)} pruned now.`;
  }
}
