/** The header: state, title, facts, transport, and the banners under it. */
import { duration, num } from "../shared/format.js";
import { toolWaiting } from "../shared/facts.js";
import { h, icon } from "../shared/dom.js";

/** Words and shape of what the run does now. @returns {{word: string, shape: string}} */
export function stateOf(view) {
  const { run, ctx } = view;
  if (view.gone) return { word: run.n ? `Kernel gone at step ${num(run.n - 1)}` : "Kernel gone", shape: "bad" };
  if (view.tables.seq === null) return { word: view.loading ? "Loading trace" : "No run", shape: view.loading ? "wait" : "ring" };
  if (!run.n) return { word: run.meta.live ? "Starting" : "No run", shape: run.meta.live ? "wait" : "ring" };
  if (!run.meta.live) return { word: view.engine.here ? "Replay" : "Recorded", shape: "ring" };
  if (view.done) return { word: `Done, step ${num(run.n - 1)}`, shape: "ring" };
  if (view.paused) return { word: `Paused, step ${num(run.n - 1)}`, shape: "wait" };
  const waiting = toolWaiting(run);
  if (waiting) return { word: `Waiting for ${waiting.tool}, ${duration(waiting.seconds)}`, shape: "wait" };
  return ctx.follow ? { word: `Live, step ${num(run.n - 1)}`, shape: "on" } : { word: "Live, looking back", shape: "on" };
}

/** Strategy, pruning, page size: what the header says beside the title. */
export function factsOf(run) {
  const { requests, prunes } = run.tables;
  const parts = [];
  if (requests.n) parts.push(requests.strategy.get(0) === "tim" ? "TIM" : requests.strategy.get(0));
  if (requests.n > 1) parts.push(`${requests.n} requests`);
  if (prunes.n) parts.push(prunes.mode.get(prunes.n - 1) === "reencode" ? "re-encode" : "rotate");
  if (run.meta.page_size) parts.push(`page ${run.meta.page_size}`);
  if (run.meta.model) parts.push(String(run.meta.model));
  return parts.filter(Boolean).join(", ");
}

export function drawHead(view) {
  const { el, run, ctx, engine } = view;
  const { word, shape } = stateOf(view);
  el.state.className = `wb-state ${shape}`;
  el.state.lastChild.textContent = word;
  const { requests } = run.tables;
  const title = view.title || (requests.n ? requests.title.get(0) : "");
  if (el.title.textContent !== title) el.title.textContent = el.title.title = title;
  el.title.hidden = !title;
  el.facts.textContent = run.n ? factsOf(run) : "";
  el.badge.hidden = !run.meta.simulated;
  el.badge.textContent = "simulated";
  el.step.textContent = run.n ? `step ${num(ctx.step)} / ${num(run.n - 1)}` : "";
  el.transport.hidden = !run.n;
  el.follow.hidden = !(run.meta.live && !view.done && !ctx.follow);
  el.reason.hidden = engine.here;
  el.reason.textContent = engine.here ? "" : engine.why;
  const running = view.playing || (run.meta.live && !view.done && !view.paused && engine.here);
  const play = el.transport.children[2];
  const name = running ? "pause" : "play";
  if (play.dataset.icon !== name) {
    play.dataset.icon = name;
    play.replaceChildren(icon(name));
    play.setAttribute("aria-label", running ? "Pause" : "Play");
  }
}

const GLYPH = { bad: "\u25c6", warn: "\u25b2", info: "\u25cf" };

/** A line under the header: what was asked, why not, what would work. @param {{kind: string, words: string, acts?: [string, () => void][]} | null} note */
export function showBanner(view, note) {
  const { banner, live } = view.el;
  banner.hidden = !note;
  if (!note) return;
  banner.className = `wb-banner ${note.kind}`;
  const acts = (note.acts ?? []).map(([words, act]) => h("button.wb-btn", { type: "button", textContent: words, onclick: act }));
  const close = h("button.wb-btn.plain", { type: "button", "aria-label": "Close", textContent: "\u00d7", onclick: () => showBanner(view, null) });
  banner.replaceChildren(h("span.g", { "aria-hidden": "true", textContent: GLYPH[note.kind] }), h("span", { textContent: note.words }), h("span.wb-gap"), ...acts, close);
  live.textContent = note.words;
}

/** Nothing has run yet: what to do, and the call that does it. */
export function drawEmpty(view) {
  const { el, run } = view;
  const empty = run.n === 0;
  el.empty.hidden = !empty;
  el.main.hidden = el.foot.hidden = el.text.hidden = empty;
  if (!empty || el.empty.dataset.kind === String(view.tables.seq === null && view.loading)) return;
  el.empty.dataset.kind = String(view.tables.seq === null && view.loading);
  const waiting = view.tables.seq === null && view.loading;
  el.empty.replaceChildren(
    h("h3", { textContent: waiting ? "Waiting for the first frame" : "Nothing has run yet" }),
    h("p", { textContent: waiting ? "The picture fills from the left as frames arrive." : "Start a run, or open a recorded trace." }),
    ...(waiting ? [] : [h("code", { textContent: 'wb.run(prompt, strategy="tim").show()' })]),
  );
}
