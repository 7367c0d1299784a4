/**
 * A view on top of an anywidget-like model: traits for cursor, selection, unit and theme; data, gestures and
 * answers as messages. One listener set a view, all of them gone when its signal aborts.
 */
import { WireError } from "./wire.js";

/** @param {any} view @param {any} model @param {AbortSignal} signal */
export function connect(view, model, signal) {
  const on = (name, f) => {
    model.on(name, f);
    signal.addEventListener("abort", () => model.off(name, f), { once: true });
  };
  const waiting = new Map();
  let next = 1;

  view.engine.send = (verb, args) => {
    if (verb === "resync") return void model.send({ kind: "resync", why: "a lane could not draw" });
    return new Promise((resolve) => {
      const id = next++;
      waiting.set(id, resolve);
      model.send({ kind: "gesture", id, verb, args });
    });
  };
  view.engine.report = (words) => model.send({ kind: "error", text: words });
  const save = (patch) => {
    for (const [key, value] of Object.entries(patch)) model.set(key, value);
    model.save_changes();
  };
  view.engine.cursor = (cursor) => save({ at: cursor });
  view.engine.unit = (axis) => save({ axis });
  view.engine.selection = (selection) => save({ picks: selection });

  on("msg:custom", (message, buffers = []) => {
    if (message?.wire) return receive(view, model, message, buffers[0]);
    if (message?.kind === "answer") {
      waiting.get(message.id)?.(message);
      waiting.delete(message.id);
    } else if (message?.kind === "engine") setEngine(view, message);
    else if (message?.kind === "error") view.say({ kind: "bad", words: message.text });
  });
  const pull = () => {
    const { node = -1, span = null } = model.get("picks") ?? {};
    view.store.set({ step: model.get("at") ?? null, unit: model.get("axis") ?? "tokens", node, span });
    view.el.root.dataset.wbTheme = model.get("theme") || "";
    if (!model.get("theme")) delete view.el.root.dataset.wbTheme;
  };
  for (const name of ["at", "axis", "picks", "theme"]) on(`change:${name}`, pull);
  on("comm_live_update", () => {
    // a host's proxy may hide the flag: the event then means that it turned, and it was on when the view opened
    view.gone = model.comm_live === undefined ? !view.gone : model.comm_live === false;
    if (!view.gone) return setEngine(view, model.get("engine") ?? {});
    setEngine(view, { here: false, why: "the kernel stopped" });
    view.say({ kind: "bad", words: "The kernel stopped. What was recorded is here; pause, prune and fork need a live engine." });
  });
  pull();
  setEngine(view, model.get("engine") ?? { here: false, why: "no engine behind this view" });
  model.send({ kind: "resync", why: "a view opened" });
}

function setEngine(view, { here, why }) {
  view.engine.here = Boolean(here);
  view.engine.why = why || "no engine behind this view";
  view.ask("step");
}

function receive(view, model, header, payload) {
  try {
    view.tables.apply(header, payload ?? new Uint8Array(0));
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    model.send({ kind: "resync", why: error.message });
    return;
  }
  model.send({ kind: "ack", seq: header.seq });
  view.dataChanged();
}
