/** The outline as a widget of its own. */
import { Axis } from "../shared/axis.js";
import { h } from "../shared/dom.js";
import { connect } from "../shared/host.js";
import { Run, noTables } from "../shared/run.js";
import { Store } from "../shared/store.js";
import { readTheme, watchTheme } from "../shared/theme.js";
import { Tables } from "../shared/wire.js";
import { Outline } from "./outline.js";

/** The smallest view that `connect` can drive: tables, a store, one element. */
class OutlineView {
  constructor(host, signal) {
    this.store = new Store({ step: null, unit: "tokens", node: -1, row: null, span: null });
    this.tables = noTables(new Tables());
    this.run = new Run(this.tables);
    this.engine = { here: false, why: "", send: () => {} };
    this.outline = new Outline(this.store);
    this.banner = h("div.wb-banner", { hidden: true, role: "status" });
    this.el = { root: h("div.wb", {}, [h("div.wb-host", {}, [h("section.wb-frame", {}, [this.banner, this.outline.el])])]) };
    host.append(this.el.root);
    this.theme = readTheme(this.el.root);
    watchTheme(this.el.root, () => {
      this.theme = readTheme(this.el.root);
      this.ask();
    }, signal);
    this.store.on(() => this.ask(), signal);
    signal.addEventListener("abort", () => cancelAnimationFrame(this.frame), { once: true });
    this.signal = signal;
  }

  ask() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      if (!this.signal.aborted) this.draw();
    });
  }

  draw() {
    const { step } = this.store.state;
    const last = Math.max(0, this.run.n - 1);
    this.axis = new Axis(this.tables.steps, this.store.state.unit);
    this.ctx = { step: step === null ? last : Math.min(step, last) };
    this.outline.update(this);
  }

  dataChanged() {
    this.run.sync();
    this.ask();
  }

  select(node) {
    this.store.set({ node });
    this.engine.selection?.({ node, span: this.store.state.span });
  }

  say(note) {
    this.banner.hidden = !note;
    this.banner.textContent = note?.words ?? "";
  }
}

function render({ model, el }) {
  const stop = new AbortController();
  const view = new OutlineView(el, stop.signal);
  connect(view, model, stop.signal);
  return () => {
    stop.abort();
    view.el.root.remove();
  };
}

export default { render };
