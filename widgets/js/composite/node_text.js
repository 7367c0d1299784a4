/** The text of a node by field: entropy as an underline, tokens to come in italics, the focused token framed. */
import { count } from "../shared/format.js";
import { h } from "../shared/dom.js";
import { FIELD_NAMES } from "../shared/run.js";
import { css } from "../shared/theme.js";
import { fieldsOf, pieces } from "../shared/facts.js";

const MOST = 160; // tokens of a field that are shown at once
const AROUND = 90;
const REST = 80; // ms

/** Which tokens of a field to show: all, its beginning, or the surroundings of the focused one. */
export function shownPart(rows, focus, most = MOST, around = AROUND) {
  if (rows.length <= most) return [0, rows.length];
  const at = rows.indexOf(focus);
  if (at < 0) return [0, Math.min(rows.length, 48)];
  const from = Math.max(0, Math.min(at - around, rows.length - most));
  return [from, Math.min(rows.length, from + most)];
}

export class NodeText {
  constructor(view) {
    this.view = view;
    this.body = h("div.wb-toks", { tabindex: "0", role: "group", "aria-label": "Text of the node" });
    this.el = h("section.text", { "aria-label": "Text" }, [h("h4", {}, ["Text", h("span.wb-thin", { textContent: "underline: entropy" })]), this.body]);
    this.spans = new Map();
    this.built = 0;
    this.body.addEventListener("click", (e) => {
      const row = e.target.closest?.("[data-row]")?.dataset.row;
      if (row !== undefined) this.view.focusRow(Number(row));
      const field = e.target.closest?.("[data-all]")?.dataset.all;
      if (field !== undefined) this.expand(Number(field));
    });
  }

  expand(field) {
    this.open = field;
    this.key = "";
    this.draw(this.node, this.row);
  }

  draw(node, row) {
    const { run, ctx, theme } = this.view;
    if (node !== this.node) this.open = -1;
    [this.node, this.row] = [node, row];
    const fields = node >= 0 ? fieldsOf(run, node) : [];
    const parts = fields.map((f, i) => (i === this.open ? [0, Math.min(f.rows.length, 2000)] : shownPart(f.rows, row)));
    const key = `${node} ${this.open} ${theme.ink} ${fields.map((f, i) => `${f.field}:${f.rows[0]}:${parts[i]}`)}`;
    if (key !== this.key) {
      // while the cursor races from node to node, the text waits until it rests
      const time = performance.now();
      if (time - this.built < REST) return this.later();
      this.built = time;
      this.build(fields, parts);
    }
    this.key = key;
    const now = run.n ? run.tables.steps.tokens[ctx.step] : 0;
    if (now !== this.now) for (const [r, span] of this.spans) span.classList.toggle("come", r >= now);
    this.now = now;
    const framed = this.spans.get(row);
    if (framed === this.framed) return;
    this.framed?.classList.remove("here");
    framed?.classList.add("here");
    this.framed = framed;
    if (framed) reveal(this.body, framed);
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => !this.view.signal.aborted && this.draw(this.node, this.row), REST);
  }

  build(fields, parts) {
    const { run, theme } = this.view;
    const { entropy } = run.tables.tokens;
    this.spans = new Map();
    this.framed = undefined;
    this.now = -1;
    const lines = fields.map(({ field, rows }, i) => {
      const [a, b] = parts[i];
      const line = h("p", {}, FIELD_NAMES[field] ? [h("span.tag", { textContent: FIELD_NAMES[field] })] : []);
      if (a > 0) line.append(h("button.more", { type: "button", "data-all": i, textContent: `${count(a, "token")} \u2026` }));
      const texts = pieces(run, rows.slice(a, b));
      texts.forEach((s, j) => {
        const row = rows[a + j];
        const span = h("span.tk", { textContent: j === 0 && a === 0 ? s.replace(/^ /, "") : s, "data-row": row });
        if (entropy[row] >= 0) span.style.borderBottomColor = css(theme.sequential(0.16 + 0.7 * Math.min(1, entropy[row] / 2)));
        this.spans.set(row, span);
        line.append(span);
      });
      if (b < rows.length) line.append(h("button.more", { type: "button", "data-all": i, textContent: `\u2026 ${rows.length - b} more` }));
      return line;
    });
    this.body.replaceChildren(...lines);
  }
}

/** Scrolls the box, never the page. */
function reveal(box, el) {
  const top = el.offsetTop - box.offsetTop;
  if (top < box.scrollTop + 4) box.scrollTop = Math.max(0, top - 24);
  else if (top + el.offsetHeight > box.scrollTop + box.clientHeight - 24) box.scrollTop = top + el.offsetHeight - box.clientHeight + 40;
}
