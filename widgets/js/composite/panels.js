/** What opens beside the lanes: the sheet of keys, the outline. */
import { h } from "../shared/dom.js";
import { Outline } from "../outline/outline.js";
import { KEYS } from "./input.js";

export function toggleKeys(view) {
  const { sheet, keys } = view.el;
  if (!sheet.children.length) {
    sheet.append(h("h3", { textContent: "Keys" }), h("dl.wb-kv", {}, KEYS.flatMap(([k, words]) => [h("dt", {}, [h("kbd", { textContent: k })]), h("dd", { textContent: words })])));
  }
  sheet.hidden = !sheet.hidden;
  keys.setAttribute("aria-expanded", String(!sheet.hidden));
}

/** @param {boolean} find whether the search box gets the focus */
export function toggleOutline(view, find) {
  if (!view.outline) {
    view.outline = new Outline(view.store);
    view.el.foot.before(view.outline.el);
    view.outline.update(view);
  } else if (!find) {
    view.outline.el.remove();
    view.outline = null;
    return view.el.over.focus();
  }
  if (find) view.outline.find.focus();
  else view.outline.tree.focus();
}
