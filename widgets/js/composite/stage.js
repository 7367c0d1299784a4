/** The composite's stage: lanes, sizes, when to redraw what. Gestures are in view.js. */
import { Axis } from "../shared/axis.js";
import { h } from "../shared/dom.js";
import { fit } from "../shared/paint.js";
import { Run, noTables } from "../shared/run.js";
import { Store } from "../shared/store.js";
import { readTheme, watchTheme } from "../shared/theme.js";
import { Tables } from "../shared/wire.js";
import { drawAsText } from "./as_text.js";
import { buildFrame, buildLane } from "./frame.js";
import { drawEmpty, drawHead } from "./head.js";
import { PagesNow } from "../lanes/pages.js";
import { Inspector } from "./inspector.js";
import { ALONE, densityOf, formOf, lanesOf, measure } from "./layout.js";
import { drawOverlay } from "./overlay.js";

/** Redraw at most once a frame; later asks add to the first. */
const KINDS = ["data", "view", "theme", "size", "paint", "step", "over"];

export class Stage {
  /**
   * @param {HTMLElement} host
   * @param {{lanes?: string[], density?: string, theme?: string, title?: string, engine: {here: boolean, why: string, send: Function}, store?: Store}} options
   * @param {AbortSignal} signal
   */
  constructor(host, options, signal) {
    this.options = options;
    this.signal = signal;
    this.engine = options.engine;
    this.title = options.title ?? "";
    this.alone = options.lanes?.filter((name) => name !== "pages").length === 1;
    this.tables = noTables(new Tables());
    this.run = new Run(this.tables);
    this.store = options.store ?? new Store({ step: null, unit: "tokens", view: null, node: -1, row: null, span: null, hover: null });
    this.folded = new Set();
    this.bookmarks = [];
    this.asked = new Set();
    this.lanes = [];
    this.loading = true;
    this.el = buildFrame({ alone: this.alone });
    if (options.theme) this.el.root.dataset.wbTheme = options.theme;
    if (options.density) this.el.root.dataset.wbDensity = options.density;
    if (options.lanes?.length) this.el.inspect.remove();
    host.append(this.el.root);
    this.theme = readTheme(this.el.root);
    this.pages = options.lanes?.includes("pages") ? new PagesNow(this) : null;
    if (this.pages) this.el.foot.before(this.pages.el);
    this.inspector = options.lanes?.length ? null : new Inspector(this);
    this.axis = new Axis(this.tables.steps, this.state.unit);
    this.updateContext();
    this.store.on((changed) => this.changed(changed), signal);
    watchTheme(this.el.root, () => this.ask("theme"), signal);
    const watch = new ResizeObserver(() => this.ask("size"));
    watch.observe(this.el.root);
    signal.addEventListener("abort", () => {
      watch.disconnect();
      cancelAnimationFrame(this.frame);
      clearInterval(this.playing);
    }, { once: true });
    this.ask("data");
  }

  get state() {
    return this.store.state;
  }

  /** The step shown: that of the cursor, or the newest. */
  get step() {
    const last = Math.max(0, this.run.n - 1);
    return Math.max(0, Math.min(this.state.step ?? last, last));
  }

  lane(name) {
    return this.lanes.find((l) => l.name === name);
  }

  laneAt(y) {
    return this.lanes.find((l) => y >= l.top && y < l.top + l.h);
  }

  /** The tables changed. */
  dataChanged() {
    this.loading = false;
    this.run.sync();
    this.ask("data");
  }

  changed(keys) {
    if (keys.has("unit")) this.ask("view");
    if (keys.has("view")) this.ask("view");
    if (keys.has("node")) this.ask("paint");
    if (keys.has("step") || keys.has("row")) this.ask("step");
    if (keys.has("hover") || keys.has("span")) this.ask("over");
  }

  ask(kind) {
    this.asked.add(kind);
    if (!this.frame && !this.signal.aborted) {
      this.frame = requestAnimationFrame(() => {
        this.frame = 0;
        this.redraw();
      });
    }
  }

  /** Does what was asked; the order of KINDS is from the widest to the narrowest. */
  redraw() {
    if (!this.el.root.isConnected) return; // what was asked waits until the view hangs in a document
    const asked = this.asked;
    this.asked = new Set();
    const level = KINDS.findIndex((k) => asked.has(k));
    if (level < 0) return;
    if (asked.has("theme")) this.theme = readTheme(this.el.root);
    if (level <= KINDS.indexOf("view")) this.makeAxis();
    this.updateContext();
    if (asked.has("data")) drawEmpty(this);
    if (asked.has("data") || asked.has("size") || !this.lanes.length) this.arrange();
    if (level <= KINDS.indexOf("paint")) {
      this.ctx.stale = level < KINDS.indexOf("paint");
      for (const l of this.lanes) this.paint(l);
      this.ctx.stale = false;
    } else if (asked.has("step")) {
      this.ctx.onlyStep = true;
      for (const l of this.lanes) if (l.lane.followsCursor) this.paint(l);
    }
    if (level <= KINDS.indexOf("step")) this.afterStep();
    this.guard(() => drawOverlay(this));
    if (level === KINDS.indexOf("over")) this.drawHover();
  }

  makeAxis() {
    const { unit, view } = this.state;
    if (this.axis.unit !== unit || this.axisSeq !== this.tables.seq) this.axis = new Axis(this.tables.steps, unit);
    else this.axis.show(this.axis.origin, this.axis.total);
    this.axisSeq = this.tables.seq;
    this.axis.w = Math.max(1, this.plotSize?.width ?? 1);
    if (!view) return;
    if (this.run.meta.live && this.state.step === null) this.axis.show(this.axis.total - (view[1] - view[0]), this.axis.total);
    else this.axis.show(view[0], view[1]);
  }

  updateContext() {
    const { run, axis, theme, folded } = this;
    const { step, node } = this.state;
    const follow = step === null || step >= run.n - 1;
    const live = Boolean(run.meta.live) && step === null;
    const members = node >= 0 && node < run.tables.nodes.n ? run.members(node) : null;
    const density = this.density ?? "normal";
    const token = (name, fallback) => (this.alone && ALONE[name]) || measure(density, name, fallback);
    this.ctx = { run, axis, theme, folded, step: this.step, known: run.known(this.step), follow, live, members, token, stale: true };
  }

  /** Rows of lanes for this width and these tables; sizes of all canvases. */
  arrange() {
    const { el, run } = this;
    const width = el.root.clientWidth;
    this.form = formOf(width);
    this.density = densityOf(width, innerHeight, this.options.density);
    el.frame.dataset.form = this.form;
    const names = lanesOf(run, this.options.lanes);
    if (names.join() !== this.lanes.map((l) => l.name).join()) {
      this.lanes = names.map((name) => this.lane(name) ?? buildLane(name, el.units));
      el.lanes.replaceChildren(...this.lanes.map((l) => l.row), el.over);
    }
    this.updateContext();
    for (const l of this.lanes) {
      l.h = this.guard(() => l.lane.height(this.ctx), l) ?? 40;
      l.plot.style.height = `${l.h}px`;
    }
    const box = el.lanes.getBoundingClientRect();
    const first = this.lanes[0]?.plot.getBoundingClientRect();
    if (!first) return;
    for (const l of this.lanes) l.top = l.plot.getBoundingClientRect().top - box.top;
    this.plotSize = { width: Math.max(1, Math.floor(first.width)), height: Math.floor(box.height) };
    el.facts.style.visibility = el.facts.clientWidth < 72 && el.facts.scrollWidth > el.facts.clientWidth ? "hidden" : ""; // a stub says nothing
    this.axis.w = this.plotSize.width;
    this.makeAxis();
    this.updateContext();
  }

  paint(l) {
    if (l.failed || !this.run.n) return;
    const width = this.plotSize.width;
    const { seq } = this.tables;
    const now = [seq, this.axis.unit, width, this.theme];
    if (l.lane.wholeRun && l.drawn?.every((v, i) => v === now[i])) return;
    l.drawn = now;
    this.guard(() => {
      l.lane.draw(fit(l.canvas, width, l.h, !this.ctx.onlyStep), width, l.h, this.ctx);
      l.canvas.setAttribute("aria-label", l.lane.describe(this.ctx));
    }, l);
  }

  /** A failure takes one lane, never the page. */
  guard(work, l) {
    try {
      return work();
    } catch (error) {
      this.fail(error, l);
      return undefined;
    }
  }

  fail(error, l) {
    const words = `${error?.message ?? error}`;
    this.engine.report?.(`${l ? `${l.name}: ` : ""}${error?.stack ?? words}`);
    if (!l) return;
    l.failed = true;
    const again = h("button.wb-btn.primary", { type: "button", textContent: "Ask for a snapshot", onclick: () => this.resync(l) });
    const hide = h("button.wb-btn", { type: "button", textContent: "Hide lane", onclick: () => l.row.remove() });
    l.plot.append(h("div.wb-failed", { role: "alert" }, [
      h("b", { textContent: `\u25c6 ${l.lane.title || l.name} could not draw` }), h("span", { textContent: `${words}. The other lanes are not affected.` }), again, hide,
    ]));
  }

  resync(l) {
    l.failed = false;
    l.plot.querySelector(".wb-failed")?.remove();
    this.engine.send("resync", {});
    this.ask("data");
  }

  /** What follows the cursor outside the canvases. */
  afterStep() {
    const { el, ctx, run } = this;
    drawHead(this);
    if (!run.n) return;
    for (const l of this.lanes) {
      if (!l.lane.readout || l.failed) continue;
      const [value, unit] = this.guard(() => l.lane.readout(ctx), l) ?? ["", ""];
      if (l.value.textContent !== value) l.value.textContent = value;
      if (l.unit.textContent !== unit) l.unit.textContent = unit;
    }
    for (const button of el.units.children) button.setAttribute("aria-pressed", String(button.dataset.unit === this.axis.unit));
    el.over.setAttribute("aria-valuemax", String(run.n - 1));
    el.over.setAttribute("aria-valuenow", String(ctx.step));
    el.over.setAttribute("aria-valuetext", this.valueText());
    this.guard(() => this.inspector?.draw());
    this.guard(() => this.pages?.draw());
    this.outline?.update(this);
    if (el.text.open) drawAsText(this);
  }

  drawHover() {
    const { hover } = this.state;
    const words = (hover?.text ?? []).filter(Boolean).join(", ");
    if (this.el.hover.textContent !== words) this.el.hover.textContent = words;
  }
}
