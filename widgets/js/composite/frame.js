/** The composite's elements: made once, filled by the parts that own them. */
import { UNITS } from "../shared/axis.js";
import { h, icon } from "../shared/dom.js";
import { LANES } from "./layout.js";

const UNIT_WORDS = { tokens: "tok", steps: "step", wall: "wall" };

const button = (name, label, key) => h("button.wb-btn.icon", { type: "button", "aria-label": label, title: `${label} (${key})`, "data-act": name }, [icon(name)]);

/** @param {{alone: boolean}} options */
export function buildFrame({ alone }) {
  const el = {};
  el.state = h("span.wb-state", {}, [h("i"), h("b")]);
  el.title = h("h2.wb-title");
  el.badge = h("span.wb-badge", { hidden: true });
  el.facts = h("span.wb-facts");
  el.follow = h("button.wb-btn.follow", { type: "button", hidden: true, textContent: "follow" });
  el.step = h("span.wb-step");
  el.transport = h("span.wb-transport", { role: "group", "aria-label": "Transport" }, [
    button("first", "First step", "Home"),
    button("back", "Step back", "\u2190"),
    button("play", "Play", "space"),
    button("on", "Step on", "\u2192"),
    button("last", "Last step", "End"),
  ]);
  el.reason = h("span.wb-reason", { hidden: true });
  el.head = h("header.wb-head", {}, [el.state, el.title, el.badge, el.facts, h("span.wb-gap"), el.reason, el.follow, el.transport, el.step]);
  el.banner = h("div.wb-banner", { hidden: true, role: "status" });
  el.units = h("div.wb-seg", { role: "group", "aria-label": "Unit of the axis" }, UNITS.map((unit) =>
    h("button", { type: "button", textContent: UNIT_WORDS[unit], "data-unit": unit, "aria-label": `${UNIT_WORDS[unit]}: axis in ${unit === "wall" ? "wall time" : unit}`, "aria-pressed": "false" })));
  el.lanes = h("div.wb-lanes");
  el.over = h("div.wb-over", { tabindex: "0", role: "slider", "aria-label": "Position in the run", "aria-valuemin": "0" }, [h("canvas", { "aria-hidden": "true" })]);
  el.empty = h("div.wb-empty", { hidden: true });
  el.inspect = h("div.wb-inspect", { role: "region", "aria-label": "Inspector" });
  el.main = h("div.wb-main", {}, [el.lanes, el.inspect]);
  el.hover = h("span.wb-hover");
  el.keys = h("button.wb-keys", { type: "button", "aria-expanded": "false" }, [h("kbd", { textContent: "?" }), " keys"]);
  el.foot = h("footer.wb-foot", {}, [el.hover, h("span.wb-gap"), legend(), el.keys]);
  el.sheet = h("div.wb-sheet", { hidden: true, role: "dialog", "aria-label": "Keys" });
  el.text = h("details.wb-text", {}, [h("summary", { textContent: "As text" }), h("div.wb-textwrap", { tabindex: "0", role: "region", "aria-label": "The run as text" })]);
  el.live = h("div.wb-sr", { "aria-live": "polite" });
  el.frame = h("section.wb-frame", { "aria-label": "Run" }, [el.head, el.banner, el.empty, el.main, el.foot, el.text, el.sheet, el.live]);
  if (alone) el.frame.classList.add("alone");
  el.root = h("div.wb", {}, [h("div.wb-host", {}, [el.frame])]);
  return el;
}

function legend() {
  const item = (kind, words) => h("span", {}, [h(`i.${kind}`), words]);
  return h("span.wb-legend", { "aria-hidden": "true" }, [
    item("held", "in memory"), item("pruned", "pruned"), item("conclusion", "conclusion"), item("result", "tool result"),
  ]);
}

/** One lane's row: gutter with its name and its value at the cursor, plot with its canvas. */
export function buildLane(name, units) {
  const lane = new LANES[name]();
  const gutter = h("div.wb-gut");
  if (name === "ruler") gutter.append(units);
  const value = h("span.v");
  const unit = h("span.u");
  if (lane.title) gutter.append(h("span.n", { textContent: lane.title }), value, unit);
  const canvas = h("canvas", { role: "img" });
  const plot = h("div.wb-plot", {}, [canvas]);
  const row = h(`div.wb-lane.${name}${lane.flat ? ".flat" : ""}`, {}, [gutter, plot]);
  return { name, lane, row, gutter, value, unit, plot, canvas, top: 0, h: 0, failed: false };
}
