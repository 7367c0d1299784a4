/** The structure editor: task types on the left, what they declare on the right. */
import { h } from "../shared/dom.js";
import { partList, swatch } from "./list.js";
import { freshName, named, renameType } from "./parts.js";

const ROOT = "reasoning";
const KEYS = [["↑ ↓", "rows"], ["Enter", "add"], ["Del", "remove"], ["Alt ↑ ↓", "move"], ["L", "list"], ["S", "in order"], ["C", "one of"], ["O", "optional"], ["Ctrl Z", "undo"]];

export class Editor {
  /** @param {HTMLElement} host @param {(value: any) => void} save @param {AbortSignal} signal */
  constructor(host, save, signal) {
    this.save = save;
    this.value = null;
    this.past = [];
    this.future = [];
    this.tools = [];
    this.report = {};
    this.focus = { list: ROOT, path: [] };
    this.live = h("div.wb-sr", { role: "status" });
    this.state = h("span.wb-state", {}, [h("i"), h("b")]);
    this.facts = h("span.wb-facts");
    this.undo = this.button("Undo", "undo the last edit (Ctrl Z)", () => this.step(this.past, this.future));
    this.redo = this.button("Redo", "redo (Ctrl Shift Z)", () => this.step(this.future, this.past));
    const add = this.button("Add a task type", "a new kind of task", () => this.addType());
    this.head = h("header.wb-head", {}, [this.state, h("h3.wb-title", {}, ["Task structure"]), this.facts, h("span.wb-gap"), this.undo, this.redo, add]);
    this.types = h("div.wb-stypes");
    this.why = h("p.wb-swhy", { role: "alert" });
    this.source = h("pre.wb-ssource", { tabindex: "0", "aria-label": "the declaration in Python" });
    const copy = this.button("Copy", "copy the declaration", () => navigator.clipboard?.writeText(this.source.textContent));
    this.side = h("aside.wb-sside", {}, [this.why, h("div.wb-scap", {}, [h("b", {}, ["Declaration"]), h("span.wb-gap"), copy]), this.source]);
    const keys = KEYS.flatMap(([key, text]) => [h("kbd", {}, [key]), h("span", {}, [text])]);
    this.root = h("div.wb", {}, [h("section.wb-frame.wb-structure", { "aria-label": "Task structure" }, [
      this.head, h("div.wb-smain", {}, [this.types, this.side]), h("footer.wb-sfoot", {}, keys), this.live,
    ])]);
    this.root.addEventListener("keydown", (e) => this.onKey(e), { signal });
    host.append(this.root);
  }

  button(text, title, act) {
    const el = h("button.wb-btn", { type: "button", title }, [text]);
    el.addEventListener("click", act);
    return el;
  }

  onKey(e) {
    if (!(e.ctrlKey || e.metaKey) || e.key.toLowerCase() !== "z" || e.target.matches("input")) return;
    e.preventDefault();
    e.stopPropagation();
    if (e.shiftKey) this.step(this.future, this.past);
    else this.step(this.past, this.future);
  }

  /** From outside: Python set it. */
  show(value) {
    if (JSON.stringify(value) === JSON.stringify(this.value)) return;
    this.value = value;
    this.draw();
  }

  edit(value, list = this.focus.list, path = []) {
    if (JSON.stringify(value) === JSON.stringify(this.value)) return;
    this.past.push(this.value);
    this.future.length = 0;
    this.take(value, { list, path });
  }

  step(from, to) {
    if (!from.length) return;
    to.push(this.value);
    this.take(from.pop(), this.focus);
  }

  take(value, focus) {
    const held = this.types.contains(this.root.ownerDocument.activeElement) || this.root.contains(this.root.getRootNode().activeElement);
    this.value = value;
    this.focus = focus;
    this.draw();
    if (held) this.refocus();
    this.save(value);
  }

  refocus() {
    const list = this.types.querySelector(`[data-list="${CSS.escape(this.focus.list)}"]`);
    const row = list?.querySelector(`[data-path="${this.focus.path.join(".")}"]`) ?? list?.querySelector("[role=treeitem]");
    (row ?? list?.querySelector("button, input"))?.focus();
  }

  told(report) {
    this.report = report ?? {};
    const { why = "", source = "", depth, here = true } = this.report;
    this.state.className = `wb-state${!here ? " ring" : why ? " bad" : ""}`;
    this.state.querySelector("b").textContent = !here ? "Not checked" : why ? "Not a structure yet" : "Ready";
    this.why.textContent = why;
    this.why.hidden = !why;
    if (source || !why) this.source.textContent = source;
    this.source.hidden = !this.source.textContent;
    this.source.classList.toggle("stale", Boolean(why));
    this.depth = why ? "" : depth;
    this.live.textContent = why || "";
    this.count();
  }

  count() {
    const n = this.value?.types.length ?? 0;
    const depth = this.depth ? `, ${this.depth} ${this.depth === 1 ? "level" : "levels"} at least` : "";
    this.facts.textContent = `${n} ${n === 1 ? "task type" : "task types"}${depth}`;
  }

  draw() {
    const { types, reasoning } = this.value;
    this.undo.disabled = !this.past.length;
    this.redo.disabled = !this.future.length;
    const root = h("section.wb-stype.root", { "data-list": ROOT }, [
      h("div.wb-shead", {}, [h("b", {}, ["reasoning"]), h("span.wb-thin", {}, ["what the tree's first level holds"])]),
      this.list(ROOT, "reasoning", reasoning, (part) => ({ ...this.value, reasoning: part ?? types[0].name })),
    ]);
    this.types.replaceChildren(root, ...types.map((t, i) => this.type(t, i)));
    this.count();
  }

  owner(name) {
    const place = this.value.types.findIndex((t) => t.name === name);
    return place < 0 ? 0 : (place % 12) + 1;
  }

  list(id, label, part, put) {
    return partList({
      id, label, part, types: this.value.types, owner: (name) => this.owner(name),
      current: this.focus.list === id ? this.focus.path : [],
      change: (next, path) => this.edit(put(next), id, path),
      focus: (list, path) => this.moved(list, path),
    });
  }

  /** Roving focus: the row that has it is the one that Tab reaches. */
  moved(list, path) {
    this.focus = { list, path };
    const key = path.join(".");
    const rows = this.types.querySelectorAll(`[data-list="${CSS.escape(list)}"] .wb-srow`);
    for (const row of rows) for (const el of [row, ...row.querySelectorAll("[tabindex]")]) el.setAttribute("tabindex", row.dataset.path === key ? "0" : "-1");
  }

  type(t, i) {
    const set = (patch, path) => this.edit({ ...this.value, types: this.value.types.with(i, { ...t, ...patch }) }, t.name, path);
    const name = this.entry("name", t.name, "name of the task type", (v) => this.edit(renameType(this.value, i, v), v));
    const about = this.entry("about", t.about, "what it is for", (v) => set({ about: v }));
    const gone = h("button.wb-btn.icon.plain", { type: "button", title: "remove this task type", "aria-label": `remove ${t.name}` }, ["×"]);
    gone.addEventListener("click", () => this.removeType(i));
    const used = [this.value.reasoning, ...this.value.types.map((o) => o.subtasks)].some((p) => p !== null && named(p).includes(t.name));
    gone.disabled = used;
    if (used) gone.title = "it is used: take it out of the lists first";
    const head = h("div.wb-shead", {}, [swatch(this.owner(t.name)), name, about, gone]);
    const parts = [head, this.toolRow(t, set)];
    if (t.subtasks === null) {
      const add = this.button("Add subtasks", "what its subtask list holds", () => set({ subtasks: this.value.types[0].name }, []));
      parts.push(h("div.wb-snone", {}, [h("span.wb-thin", {}, ["No subtasks"]), add]));
    } else parts.push(this.list(t.name, `subtasks of ${t.name}`, t.subtasks, (part) => ({ ...this.value, types: this.value.types.with(i, { ...t, subtasks: part }) })));
    return h("section.wb-stype", { "data-list": t.name, "aria-label": t.name }, parts);
  }

  entry(kind, value, label, done) {
    const el = h(`input.wb-input.${kind}`, { value, "aria-label": label, placeholder: kind === "about" ? label : "", spellcheck: false });
    el.addEventListener("change", () => done(el.value.trim()));
    return el;
  }

  toolRow(t, set) {
    const offered = [...new Set([...this.tools, ...t.tools])];
    const row = h("div.wb-stools", { role: "group", "aria-label": `tools of ${t.name}` });
    for (const tool of offered) {
      const on = t.tools.includes(tool);
      const chip = h("button.wb-btn.chip", { type: "button", "aria-pressed": String(on) }, [tool]);
      chip.addEventListener("click", () => set({ tools: on ? t.tools.filter((x) => x !== tool) : [...t.tools, tool], must_call: t.must_call && !(on && t.tools.length === 1) }));
      row.append(chip);
    }
    if (!offered.length) row.append(h("span.wb-thin", {}, ["No tools offered"]));
    const must = h("input", { type: "checkbox", checked: t.must_call, disabled: !t.tools.length });
    must.addEventListener("change", () => set({ must_call: must.checked }));
    row.append(h("label.wb-smust", {}, [must, "always calls one"]));
    return row;
  }

  addType() {
    const name = freshName(this.value);
    const fresh = { name, about: "", tools: [], must_call: false, subtasks: null };
    this.edit({ ...this.value, types: [...this.value.types, fresh] }, name);
    this.types.lastElementChild.querySelector("input.name").select();
  }

  removeType(i) {
    if (this.value.types.length > 1) this.edit({ ...this.value, types: this.value.types.toSpliced(i, 1) }, ROOT);
  }
}
