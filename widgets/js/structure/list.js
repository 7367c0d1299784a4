/** One list of tasks as rows: what stands where, changed in place by pointer or keys. */
import { h } from "../shared/dom.js";
import { addAfter, addInside, at, formOf, kindOf, move, put, remove, rows, turned, words, wrapped } from "./parts.js";

const FORMS = { sequence: "all, in order", choice: "one of", list: "list of", optional: "optional" };
const GLYPH = { sequence: "→", choice: "|", list: "∗", optional: "?" };
const WRAP = { l: "list", s: "sequence", c: "choice", o: "optional" };

/**
 * @param {{id: string, label: string, part: any, types: {name: string}[], owner: (name: string) => number,
 *          change: (part: any, focus: number[]) => void, focus: (list: string, path: number[]) => void, current: number[]}} o
 */
export function partList(o) {
  const el = h("div.wb-slist", { role: "tree", "aria-label": `${o.label}: ${words(o.part)}` });
  const found = rows(o.part);
  const key = (path) => path.join(".");
  const current = found.some((r) => key(r.path) === key(o.current)) ? key(o.current) : "";
  for (const row of found) el.append(rowOf(o, row, key(row.path) === current));
  el.addEventListener("keydown", (e) => onKey(o, e, found));
  return el;
}

function rowOf(o, { path, part, place, of }, current) {
  const form = formOf(part);
  const kind = kindOf(part);
  const tab = current ? "0" : "-1";
  const el = h("div.wb-srow", {
    role: "treeitem", tabindex: tab, "aria-level": path.length + 1, "aria-posinset": place + 1, "aria-setsize": of,
    "aria-label": words(part), "aria-expanded": kind === "task" ? null : "true", "data-path": path.join("."),
    style: `--d:${path.length}`,
  });
  const glyph = kind === "task"
    ? swatch(o.owner(part))
    : h("i.gl", { "aria-hidden": "true" }, [GLYPH[form]]);
  const what = h("select.wb-input", { "aria-label": "what stands here", tabindex: tab });
  what.append(
    group("Task", o.types.map((t) => option(t.name, `task:${t.name}`, part === t.name))),
    group("Several", Object.entries(FORMS).map(([k, text]) => option(text, k, form === k))),
  );
  if (kind === "task" && !o.types.some((t) => t.name === part)) what.prepend(option(`${part} (no such type)`, `task:${part}`, true));
  what.addEventListener("change", () => {
    const value = what.value.startsWith("task:") ? what.value.slice(5) : turned(part, what.value);
    o.change(put(o.part, path, value), path);
  });
  el.append(glyph, what);
  if (form === "list") el.append(...bounds(o, path, part, tab));
  el.append(h("span.wb-gap"));
  if (kind !== "task") el.append(button("+", "add one inside", tab, () => grow(o, path)));
  el.append(button("×", "remove", tab, () => drop(o, path)));
  el.addEventListener("focusin", () => o.focus(o.id, path));
  return el;
}

/** @param {number} owner 0: no such type */
export const swatch = (owner) => h(owner ? "i.sw" : "i.sw.none", { style: `--c:var(--wb-owner-${owner || 1})`, "aria-hidden": "true" });

const group = (label, children) => h("optgroup", { label }, children);
const option = (text, value, selected) => h("option", { value, selected }, [text]);

function button(text, label, tab, act) {
  const el = h("button.wb-btn.icon.plain", { type: "button", title: label, "aria-label": label, tabindex: tab }, [text]);
  el.addEventListener("click", act);
  return el;
}

function bounds(o, path, part, tab) {
  const entry = (name, value, label) => {
    const el = h("input.wb-input.num", { type: "number", min: "0", max: "64", value: value ?? "", placeholder: "any", "aria-label": label, tabindex: tab });
    el.addEventListener("change", () => {
      const n = el.value === "" ? null : Number(el.value);
      o.change(put(o.part, path, { ...part, [name]: name === "least" ? n ?? 0 : n }), path);
    });
    return el;
  };
  return [entry("least", part.least, "at least"), h("span.wb-thin", {}, ["to"]), entry("most", part.most, "at most")];
}

function grow(o, path) {
  o.change(...addInside(o.part, path, o.types[0].name));
}

function drop(o, path) {
  const left = remove(o.part, path);
  o.change(left, path.slice(0, -1));
}

function onKey(o, e, found) {
  if (!e.target.matches(".wb-srow")) return; // a control inside has keys of its own
  const path = e.target.dataset.path === "" ? [] : e.target.dataset.path.split(".").map(Number);
  const here = found.findIndex((r) => r.path.join(".") === path.join("."));
  const go = (row) => row && e.currentTarget.querySelector(`[data-path="${row.path.join(".")}"]`).focus();
  const act = {
    ArrowUp: () => (e.altKey ? o.change(...move(o.part, path, -1)) : go(found[here - 1])),
    ArrowDown: () => (e.altKey ? o.change(...move(o.part, path, 1)) : go(found[here + 1])),
    ArrowLeft: () => go(found.find((r) => r.path.join(".") === path.slice(0, -1).join("."))),
    ArrowRight: () => go(found[here + 1]?.path.length > path.length ? found[here + 1] : null),
    Home: () => go(found[0]),
    End: () => go(found.at(-1)),
    Enter: () => o.change(...addAfter(o.part, path, o.types[0].name)),
    Delete: () => drop(o, path),
    Backspace: () => drop(o, path),
  }[e.key] ?? (WRAP[e.key] && !e.ctrlKey && !e.metaKey && (() => o.change(put(o.part, path, wrapped(at(o.part, path), WRAP[e.key])), path)));
  if (!act) return;
  e.preventDefault();
  e.stopPropagation();
  act();
}
