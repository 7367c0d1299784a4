/** Pointer and keys over the lanes. Hover shows, click keeps, a finished gesture commands. */
import { UNITS } from "../shared/axis.js";

const SLACK = 4; // px of movement that still count as a click

/** @param {any} view @param {AbortSignal} signal */
export function listen(view, signal) {
  const { over, frame } = view.el;
  const at = (e) => {
    const box = over.getBoundingClientRect();
    return { x: e.clientX - box.left, y: e.clientY - box.top };
  };
  let drag = null;

  over.addEventListener("pointerdown", (e) => {
    if (e.button !== 0) return;
    over.focus({ preventScroll: true });
    const { x, y } = at(e);
    const lane = view.laneAt(y)?.name;
    const near = Math.abs(x - view.axis.xEnd(view.ctx.step)) < 6;
    const scrub = lane === "ruler" || lane === "overview" || near || view.axis.whole;
    drag = { x, y, lane, moved: false, kind: e.shiftKey ? "brush" : scrub ? "scrub" : "pan", v0: view.axis.v0, v1: view.axis.v1, from: view.axis.nearest(x) };
    over.setPointerCapture(e.pointerId);
    if (!e.shiftKey && (lane === "ruler" || lane === "overview")) scrubTo(x);
  }, { signal });

  const scrubTo = (x) => {
    const axis = drag?.lane === "overview" ? view.lane("overview").lane.axis : view.axis;
    view.seek(axis.nearest(Math.max(0, Math.min(axis.w, x))), { reveal: drag?.lane === "overview" });
  };

  over.addEventListener("pointermove", (e) => {
    const { x, y } = at(e);
    if (!drag) return view.hoverAt(x, y);
    drag.moved ||= Math.abs(x - drag.x) > SLACK || Math.abs(y - drag.y) > SLACK;
    if (!drag.moved) return;
    if (drag.kind === "scrub") scrubTo(x);
    else if (drag.kind === "brush") {
      const b = view.axis.nearest(x);
      view.store.set({ span: [Math.min(drag.from, b), Math.max(drag.from, b)] });
    } else {
      const shift = ((drag.x - x) / view.axis.w) * (drag.v1 - drag.v0);
      view.showSpan(drag.v0 + shift, drag.v1 + shift);
    }
  }, { signal });

  const end = (e) => {
    if (!drag) return;
    const { x, y } = at(e);
    const { moved, lane, kind } = drag;
    drag = null;
    if (kind === "brush") return moved ? view.finishSpan() : view.store.set({ span: null });
    if (moved) return kind === "scrub" && view.finishSeek();
    if (lane === "ruler" || lane === "overview") return view.finishSeek();
    view.pick(x, y);
  };
  over.addEventListener("pointerup", end, { signal });
  over.addEventListener("pointercancel", () => (drag = null), { signal });
  over.addEventListener("pointerleave", () => view.store.set({ hover: null }), { signal });
  over.addEventListener("dblclick", (e) => {
    const { x, y } = at(e);
    const node = view.hitAt(x, y)?.node ?? -1;
    if (node >= 0) view.zoomTo(node);
    else view.zoomBy(0.25, x);
  }, { signal });
  over.addEventListener("wheel", (e) => {
    const sideways = e.shiftKey ? e.deltaY || e.deltaX : Math.abs(e.deltaX) > Math.abs(e.deltaY) ? e.deltaX : 0;
    if (e.ctrlKey || e.metaKey) view.zoomBy(Math.exp(e.deltaY * 0.0025), at(e).x);
    else if (sideways && !view.axis.whole) view.panBy(sideways);
    else return;
    e.preventDefault();
  }, { passive: false, signal });

  frame.addEventListener("keydown", (e) => {
    if (e.target.closest("input, textarea, select")) return;
    if (e.ctrlKey || e.metaKey) return;
    const onButton = e.target.closest("button, summary");
    if (onButton && (e.key === "Enter" || e.key === " ")) return;
    if (!key(view, e)) return;
    e.preventDefault();
    e.stopPropagation(); // the host's single-letter commands must not see it
  }, { signal });
}

/** @returns {boolean} whether the key was ours */
function key(view, e) {
  const { run } = view;
  const step = (d) => {
    view.seek(Math.max(0, Math.min(run.n - 1, view.step + d)), { reveal: true });
    view.finishSeek();
  };
  if (e.altKey && (e.key === "," || e.key === ".")) return view.nextBookmark(e.key === "." ? 1 : -1), true;
  if (e.altKey) return false;
  const acts = {
    ArrowLeft: () => step(e.shiftKey ? -32 : -1),
    ArrowRight: () => step(e.shiftKey ? 32 : 1),
    Home: () => step(-run.n),
    End: () => view.toEnd(),
    " ": () => view.play(),
    ".": () => view.acts.step(),
    o: () => view.acts.stepOut(),
    ArrowUp: () => view.walk("parent"),
    ArrowDown: () => view.walk("child"),
    "[": () => view.walk("before"),
    "]": () => view.walk("after"),
    Escape: () => view.escape(),
    z: () => view.zoomTo(view.state.node),
    "+": () => view.zoomBy(0.5),
    "=": () => view.zoomBy(0.5),
    "-": () => view.zoomBy(2),
    0: () => view.showAll(),
    s: () => view.setSpanEdge(0),
    e: () => view.setSpanEdge(1),
    b: () => view.bookmark(),
    p: () => view.acts.prune(view.inspected()),
    i: () => view.acts.pin(view.inspected()),
    n: () => view.acts.note(view.inspected()),
    f: () => view.focusAlternatives(),
    t: () => view.toggleOutline(false),
    "/": () => view.toggleOutline(true),
    Enter: () => view.enter(),
    u: () => view.setUnit(UNITS[(UNITS.indexOf(view.axis.unit) + 1) % UNITS.length]),
    "?": () => view.toggleKeys(),
  };
  const name = e.key.length === 1 ? e.key.toLowerCase() : e.key;
  if (!acts[name]) return false;
  if (name === "Escape" && view.atRest()) return false; // the host gets its Escape back
  acts[name]();
  return true;
}

/** The table that the key sheet shows. */
export const KEYS = [
  ["\u2190 \u2192", "one step; with shift, 32"],
  ["Home End", "first step, newest step"],
  ["space", "play or pause"],
  [". o", "live: one token; to the end of the subtask"],
  ["\u2191 \u2193 [ ]", "parent, child, siblings"],
  ["Enter", "fold or unfold the selected node; confirm a preview"],
  ["z + - 0", "zoom to selection, in, out, all"],
  ["s e", "start and end of the brush at the cursor"],
  ["b, alt , .", "bookmark; go between bookmarks"],
  ["P I N F", "prune, pin, note, fork"],
  ["t /", "outline; find"],
  ["u", "unit of the axis"],
  ["Esc", "drop preview, brush, selection"],
];
