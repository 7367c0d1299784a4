/** The picture in words: a paragraph and a table that say what the lanes say. Built when it is opened. */
import { count, duration, num, percent } from "../shared/format.js";
import { h } from "../shared/dom.js";
import { losses, residentOf, stateOf, totals, windowFull } from "../shared/facts.js";

const MOST = 400; // rows of the table

/** Sentences about the whole run. @param {import("../shared/run.js").Run} run @returns {string[]} */
export function sentences(run) {
  const t = totals(run);
  const limit = run.meta.limit || run.meta.window;
  const { requests, steps } = run.tables;
  const full = windowFull(run);
  const out = [
    `${count(t.tokens, "token")} in ${count(run.n, "engine step")} and ${duration(t.seconds)}; ${num(t.sampled)} sampled, ${num(t.computed)} computed.`,
    `Memory peaks at ${count(run.peak, "token")}, ${percent(run.peak / limit)} of the window of ${num(limit)}.`,
  ];
  if (t.folds) out.push(`${count(t.folds, "fold")} took ${count(t.removed, "token")} out.`);
  if (full >= 0) out.push(`Unpruned (derived), the window would have been full at step ${num(full)}, and the run would hold ${num(steps.unpruned[run.n - 1])} tokens at its end.`);
  if (t.tools) out.push(`${count(t.tools, "tool call")}, ${duration(t.toolSeconds)} in all.`);
  const lost = losses(run);
  if (lost.length) out.push(`Not recorded, as the recorder was full: ${lost.map((l) => l.text).join(", ")}.`);
  if (requests.n && requests.answer.get(0)) out.push(`Answer: ${requests.answer.get(0)}`);
  return out;
}

export function drawAsText(view) {
  const { run, ctx, el } = view;
  if (!run.n) return;
  const key = `${run.tables.seq} ${ctx.step}`;
  if (el.text.dataset.key === key) return;
  el.text.dataset.key = key;
  const { nodes } = run.tables;
  const head = ["Task", "Tokens", "In memory", "Steps", "State", "Conclusion"];
  const rows = [];
  for (let i = 0; i < nodes.n && rows.length < MOST; i++) {
    const state = stateOf(run, i, ctx.step);
    const held = residentOf(run, run.members(i), ctx.step);
    const cells = [run.name(i), num(run.all[i]), num(held), `${num(nodes.opened[i])} to ${nodes.closed[i] > run.n ? "now" : num(nodes.closed[i])}`, state, nodes.conclusion.get(i)];
    rows.push(h("tr", {}, cells.map((c, j) => h(j ? "td" : "th", { textContent: c, scope: j ? undefined : "row" }))));
  }
  const more = nodes.n > MOST ? [h("p", { textContent: `${num(nodes.n - MOST)} more nodes are in the outline.` })] : [];
  el.text.lastChild.replaceChildren(
    h("p", { textContent: sentences(run).join(" ") }),
    h("p", { textContent: `At ${view.valueText()}: ${view.lanes.map((l) => l.canvas.getAttribute("aria-label")).filter(Boolean).join(" ")}` }),
    h("table.wb-t", {}, [h("thead", {}, [h("tr", {}, head.map((c) => h("th", { textContent: c, scope: "col" })))]), h("tbody", {}, rows)]),
    ...more,
  );
}
