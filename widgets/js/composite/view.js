/** The composite as a person uses it: seeking, zooming, selecting, commanding. */
import { FIELD_NAMES, PHASE_NAMES } from "../shared/run.js";
import { NEVER } from "../shared/wire.js";
import { pruneEffect, tokenAt, writingAt } from "../shared/facts.js";
import { makeActs } from "./acts.js";
import { drawAsText } from "./as_text.js";
import { showBanner } from "./head.js";
import { listen } from "./input.js";
import { toggleKeys, toggleOutline } from "./panels.js";
import { Stage } from "./stage.js";

export class View extends Stage {
  constructor(host, options, signal) {
    super(host, options, signal);
    this.acts = makeActs(this);
    listen(this, signal);
    const { el } = this;
    el.units.addEventListener("click", (e) => e.target.dataset.unit && this.setUnit(e.target.dataset.unit), { signal });
    el.transport.addEventListener("click", (e) => this.transport(e.target.closest("button")?.dataset.act), { signal });
    el.follow.addEventListener("click", () => this.toEnd(), { signal });
    el.keys.addEventListener("click", () => this.toggleKeys(), { signal });
    el.text.addEventListener("toggle", () => el.text.open && drawAsText(this), { signal });
  }

  transport(act) {
    const { step } = this;
    if (act === "first") this.seek(0, { reveal: true });
    else if (act === "back") this.seek(Math.max(0, step - 1), { reveal: true });
    else if (act === "on") this.seek(Math.min(this.run.n - 1, step + 1), { reveal: true });
    else if (act === "last") this.toEnd();
    else if (act === "play") return this.play();
    this.finishSeek();
  }

  dataChanged() {
    super.dataChanged();
    if (!this.preview) return;
    this.updateContext();
    this.showPrune(this.preview.node); // of the run as it stands now
  }

  // ---- time ----

  seek(step, { reveal = false } = {}) {
    if (!this.run.n) return;
    this.store.set({ step, row: null });
    if (!reveal || this.axis.whole) return;
    const x = this.axis.xEnd(step);
    if (x >= 4 && x <= this.axis.w - 4) return;
    const [v, half] = [this.axis.end[step], (this.axis.v1 - this.axis.v0) / 2];
    this.showSpan(v - half, v + half);
  }

  /** The gesture is over: tell Python once. */
  finishSeek() {
    this.lastCall = null;
    this.engine.cursor?.(this.state.step);
  }

  toEnd() {
    this.store.set({ step: this.run.meta.live ? null : this.run.n - 1, row: null });
    if (this.run.meta.live) this.ask("view");
    this.finishSeek();
  }

  /** Live: pause or go on. Replay: play the run in about twenty seconds. */
  play() {
    const newest = this.step >= this.run.n - 1; // not the context's word: a frame may not have passed since the cursor moved
    if (!this.playing && this.run.meta.live && !this.done && this.engine.here && newest) return this.acts[this.paused ? "resume" : "pause"]();
    if (this.playing) {
      clearInterval(this.playing);
      this.playing = 0;
      newest ? this.toEnd() : this.finishSeek();
    } else {
      if (this.step >= this.run.n - 1) this.seek(0);
      const { t, dt } = this.tables.steps;
      const length = t[this.run.n - 1] + dt[this.run.n - 1];
      const speed = Math.max(1, length / 20);
      let [now, before] = [t[this.step], performance.now()];
      this.playing = setInterval(() => {
        const time = performance.now();
        now += ((time - before) / 1000) * speed;
        before = time;
        let s = this.step;
        while (s + 1 < this.run.n && t[s + 1] <= now) s++;
        this.seek(s, { reveal: true });
        if (s >= this.run.n - 1) this.play();
      }, 33);
    }
    this.ask("step");
  }

  /** Every request that was opened has ended. */
  get done() {
    const { requests } = this.run.tables;
    for (let i = 0; i < requests.n; i++) if (requests.closed[i] === NEVER) return false;
    return requests.n > 0;
  }

  get paused() {
    const { marks } = this.run.tables;
    for (let i = marks.n - 1; i >= 0; i--) {
      const kind = marks.kind.get(i);
      if (kind === "pause" || kind === "resume") return kind === "pause";
    }
    return false;
  }

  valueText() {
    const { run, ctx } = this;
    const { node, field } = writingAt(run, ctx.step);
    const parts = [`step ${ctx.step} of ${run.n - 1}`, `token ${tokenAt(run, ctx.step)}`, run.name(node), FIELD_NAMES[field] ?? "", PHASE_NAMES[run.tables.steps.phase[ctx.step]]];
    return parts.filter(Boolean).join(", ");
  }

  // ---- the visible span ----

  showSpan(v0, v1) {
    this.axis.show(v0, v1);
    this.store.set({ view: this.axis.whole ? null : [this.axis.v0, this.axis.v1] });
  }

  showAll() {
    this.store.set({ view: null });
  }

  zoomBy(factor, x = this.axis.xEnd(this.step)) {
    const { axis } = this;
    const at = axis.value(Math.min(axis.w, Math.max(0, x)));
    this.showSpan(at - (at - axis.v0) * factor, at + (axis.v1 - at) * factor);
  }

  panBy(px) {
    const shift = (px / this.axis.w) * (this.axis.v1 - this.axis.v0);
    this.showSpan(this.axis.v0 + shift, this.axis.v1 + shift);
  }

  zoomTo(node) {
    if (node < 0) return this.zoomBy(0.25);
    const { nodes } = this.run.tables;
    const [a, b] = [this.axis.rowValue(nodes.first[node]), this.axis.rowValue(this.run.lastRow(node))];
    const room = (b - a) * 0.06;
    this.showSpan(a - room, b + room);
  }

  setUnit(unit) {
    const { axis } = this;
    const ends = axis.whole ? null : [axis.stepAtValue(axis.v0), axis.stepAtValue(axis.v1)];
    this.store.set({ unit });
    this.asked.add("view");
    this.makeAxis();
    if (ends) this.store.set({ view: [this.axis.start[ends[0]], this.axis.end[ends[1]]] });
    this.engine.unit?.(unit);
    this.ask("view");
  }

  // ---- selection ----

  hitAt(x, y) {
    const l = this.laneAt(y);
    if (!l?.lane.hover || l.failed || !this.run.n) return null;
    return this.guard(() => l.lane.hover(x, y - l.top, this.ctx, l.h)) ?? null;
  }

  hoverAt(x, y) {
    const hit = this.hitAt(x, y);
    const place = `${this.axis.unit === "wall" ? "at" : this.axis.unit === "steps" ? "step" : "position"} ${this.axis.label(this.axis.value(x))}`;
    this.store.set({ hover: { x, node: hit?.node ?? -1, text: [place, ...(hit?.text ?? [])] } });
  }

  pick(x, y) {
    const hit = this.hitAt(x, y);
    if (hit?.row !== undefined) return this.focusRow(hit.row);
    this.select(hit && hit.node >= 0 && hit.node !== this.state.node ? hit.node : -1);
  }

  select(node) {
    this.store.set({ node, row: null });
    this.engine.selection?.({ node, span: this.state.span });
  }

  focusRow(row) {
    this.store.set({ row });
  }

  walk(way) {
    const { run } = this;
    const { nodes } = run.tables;
    const node = this.inspected();
    if (this.state.node < 0 && node >= 0) return this.select(node);
    const siblings = nodes.parent[node] >= 0 ? run.children[nodes.parent[node]] : run.roots;
    const at = siblings.indexOf(node);
    const next = { parent: nodes.parent[node], child: run.children[node]?.[0], before: siblings[at - 1], after: siblings[at + 1] }[way];
    if (next !== undefined && next >= 0) this.select(next);
  }

  /** The selected node at once; else the one that the inspector shows, drawn a frame later. */
  inspected() {
    return this.state.node >= 0 ? this.state.node : (this.inspector?.node ?? -1);
  }

  setSpanEdge(edge) {
    const span = this.state.span ?? [this.step, this.step];
    const next = edge ? [span[0], this.step] : [this.step, span[1]];
    this.store.set({ span: [Math.min(...next), Math.max(...next)] });
    this.finishSpan();
  }

  finishSpan() {
    this.engine.selection?.({ node: this.state.node, span: this.state.span });
    this.lastCall = null;
    this.ask("step");
  }

  bookmark() {
    const s = this.step;
    this.bookmarks = this.bookmarks.includes(s) ? this.bookmarks.filter((b) => b !== s) : [...this.bookmarks, s].sort((a, b) => a - b);
    this.ask("over");
  }

  nextBookmark(way) {
    const s = this.step;
    const next = way > 0 ? this.bookmarks.find((b) => b > s) : this.bookmarks.findLast((b) => b < s);
    if (next !== undefined) this.seek(next, { reveal: true });
  }

  atRest() {
    return !this.preview && !this.state.span && this.state.node < 0 && this.state.row === null && this.el.sheet.hidden;
  }

  escape() {
    if (!this.el.sheet.hidden) return this.toggleKeys();
    if (this.preview) return this.showPrune(-1);
    if (this.state.span) {
      this.store.set({ span: null });
      return this.finishSpan();
    }
    this.select(-1);
  }

  enter() {
    if (this.preview) return this.acts.confirm();
    const { node } = this.state;
    if (node < 0 || !this.run.children[node].length) return;
    this.folded.has(node) ? this.folded.delete(node) : this.folded.add(node);
    this.ask("view");
  }

  /** Before an act, its effect. @param {number} node -1 takes the preview away */
  showPrune(node) {
    const effect = node >= 0 ? pruneEffect(this.run, node, this.ctx.known) : null;
    this.preview = effect?.removed ? { node, ...effect } : null;
    this.ask("step");
  }

  sendNote(node, words) {
    this.acts.send("note", { node, text: words });
  }

  focusAlternatives() {
    this.inspector?.alts.querySelector("button:not([disabled])")?.focus();
  }

  /** The call that does the same as what was done last. */
  call() {
    const { nodes } = this.run.tables;
    if (this.preview) return `run.prune("${nodes.path.get(this.preview.node)}")`;
    if (this.lastCall) return this.lastCall;
    if (this.state.span) return `run[${this.state.span[0]}:${this.state.span[1] + 1}]`;
    return `run.seek(${this.step})`;
  }

  toggleKeys() {
    toggleKeys(this);
  }

  toggleOutline(find) {
    toggleOutline(this, find);
  }

  say(note) {
    showBanner(this, note);
  }
}
