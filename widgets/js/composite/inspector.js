/** The inspector: the node, its text, the token's alternatives, the call that does the same. */
import { count, num, duration, probability, signed, visible } from "../shared/format.js";
import { h } from "../shared/dom.js";
import { css } from "../shared/theme.js";
import { NEVER } from "../shared/wire.js";
import { alternativesOf, pagesOf, pruneEffect, residentOf, stateOf, tokenAt, writingAt } from "../shared/facts.js";
import { NodeText } from "./node_text.js";

export class Inspector {
  /** @param {any} view the composite's View */
  constructor(view) {
    this.view = view;
    const { inspect } = view.el;
    this.crumbs = h("div.wb-crumbs");
    this.swatch = h("i.sw");
    this.name = h("b");
    this.chip = h("span.wb-badge");
    this.kv = h("dl.wb-kv");
    this.acts = {
      prune: this.act("prune", "Prune", "P"),
      pin: this.act("pin", "Pin", "I"),
      note: this.act("note", "Note", "N"),
    };
    this.say = h("p.wb-say");
    this.noteBox = h("input.wb-input", { hidden: true, placeholder: "A note on this node", "aria-label": "Note" });
    this.code = h("code");
    const copy = h("button.wb-btn.plain", { type: "button", textContent: "Copy", onclick: () => this.copy(copy) });
    const node = (this.el = h("section", { "aria-label": "Node" }, [
      this.crumbs, h("h3.wb-crumb", {}, [this.swatch, this.name, this.chip]), this.kv,
      h("div.wb-acts", {}, Object.values(this.acts)), this.noteBox, this.say, h("div.wb-py", {}, [this.code, copy]),
    ]));
    this.text = new NodeText(view);
    this.tokenTitle = h("span");
    this.tokenFacts = h("span.wb-thin");
    this.alts = h("div.wb-alts", { role: "group", "aria-label": "Alternatives" });
    const token = h("section", { "aria-label": "Token" }, [h("h4", {}, [this.tokenTitle, this.tokenFacts]), this.alts]);
    inspect.replaceChildren(node, this.text.el, token);
    this.noteBox.addEventListener("keydown", (e) => this.noteKey(e));
  }

  act(name, words, key) {
    const button = h("button.wb-btn", { type: "button", "data-act": name }, [words, h("kbd", { textContent: key })]);
    button.addEventListener("click", () => this.view.acts[name](this.node));
    if (name === "prune") {
      button.addEventListener("pointerenter", () => this.view.showPrune(this.node));
      button.addEventListener("focus", () => this.view.showPrune(this.node));
      button.addEventListener("pointerleave", () => this.view.showPrune(-1));
      button.addEventListener("blur", () => this.view.showPrune(-1));
    }
    return button;
  }

  copy(button) {
    navigator.clipboard?.writeText(this.code.textContent ?? "");
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1200);
  }

  askNote() {
    this.noteBox.hidden = false;
    this.noteBox.focus();
  }

  noteKey(e) {
    e.stopPropagation();
    if (e.key === "Enter" && this.noteBox.value.trim()) this.view.sendNote(this.node, this.noteBox.value.trim());
    if (e.key !== "Enter" && e.key !== "Escape") return;
    this.noteBox.value = "";
    this.noteBox.hidden = true;
    this.view.el.over.focus();
  }

  /** What is inspected: the selection, else what is being written at the cursor. */
  focus() {
    const { run, ctx, state } = this.view;
    const newest = Math.min(tokenAt(run, ctx.step), run.tokenCount - 1);
    if (state.row !== null && state.row < run.tokenCount) return { node: state.node >= 0 ? state.node : run.nodeOfRow(state.row), row: state.row };
    if (state.node < 0) return { node: writingAt(run, ctx.step).node, row: newest };
    let row = -1; // its last own token that exists at the cursor
    for (const i of run.nodeSegs[state.node] ?? []) {
      for (let o = run.segs.o1[i] - 1; o >= run.segs.o0[i]; o--) {
        if (run.order[o] > newest) continue;
        row = Math.max(row, run.order[o]);
        break;
      }
    }
    return { node: state.node, row };
  }

  draw() {
    const { run } = this.view;
    const { node, row } = this.focus();
    [this.node, this.row] = [node, row];
    const known = node >= 0 && node < run.tables.nodes.n;
    this.el.hidden = !known;
    if (known) this.drawNode(node);
    this.text.draw(node, row);
    this.drawToken(row);
    this.code.textContent = this.view.call();
  }

  drawNode(node) {
    const { run, ctx, theme, engine } = this.view;
    const { nodes } = run.tables;
    const s = ctx.known;
    const up = run.ancestors(node).filter((a) => nodes.depth[a] > 0);
    this.crumbs.textContent = up.length ? up.map((a) => run.name(a)).join("  \u203a  ") : nodes.depth[node] ? "top level" : "the run";
    this.name.textContent = this.name.title = run.name(node);
    this.swatch.style.background = css(theme.fill(nodes.owner[node], nodes.depth[node]));
    const state = stateOf(run, node, s);
    this.chip.textContent = nodes.pinned[node] ? `${state}, pinned` : state;
    this.chip.className = `wb-badge ${state.replace(/ .*/, "")}`;
    const members = run.members(node);
    const held = residentOf(run, members, s);
    const gone = run.gone[node];
    const closed = nodes.closed[node];
    const rows = [
      ["Tokens, own / all", `${num(run.own[node])} / ${num(run.all[node])}`],
      ["In memory now", `${num(held)}\u2009tok, ${count(pagesOf(run, members, s), "page")}`],
      ["Engine steps", `${num(nodes.opened[node])} to ${closed === NEVER ? "now" : num(closed)}`],
      ["Pruned at step", gone === NEVER ? "not pruned" : `${num(gone)}${gone > s ? ", to come" : ""}`],
      ["Tool", toolOf(nodes, node)],
    ];
    if (nodes.pruned[node] !== NEVER) rows.splice(4, 0, ["Subtasks left at", num(nodes.pruned[node])]);
    fillList(this.kv, rows);
    const effect = pruneEffect(run, node, s);
    const now = ctx.step === run.n - 1;
    this.acts.prune.disabled = !engine.here || !effect.removed || !now;
    this.acts.pin.disabled = this.acts.note.disabled = !engine.here;
    this.acts.pin.firstChild.textContent = nodes.pinned[node] ? "Unpin" : "Pin";
    const again = effect.reencoded ? ` and re-encode ${num(effect.reencoded)}` : effect.rotated ? ` and turn ${num(effect.rotated)}` : "";
    const would = `Prune would free ${count(effect.removed, "token")}, \u2248\u2009${count(effect.pages, "page")}${again}.`;
    this.say.textContent = effect.removed ? (now || !engine.here ? would : `${would} Acts need the newest step.`) : effect.why;
    if (!engine.here) this.say.textContent += ` Acts: ${engine.why}.`;
  }

  drawToken(row) {
    const { run, engine, theme } = this.view;
    if (row === this.drawnRow && this.drawnRun === run.tables.seq && this.drawnTheme === theme && this.drawnEngine === engine.here) return;
    [this.drawnRow, this.drawnRun, this.drawnTheme, this.drawnEngine] = [row, run.tables.seq, theme, engine.here];
    if (row < 0 || row >= run.tokenCount) return void this.alts.replaceChildren();
    const { id, entropy, logprob } = run.tables.tokens;
    const sampled = entropy[row] >= 0;
    this.tokenTitle.textContent = `Token ${num(row)}`;
    this.tokenFacts.textContent = sampled ? `H ${entropy[row].toFixed(2)}, ln p ${signed(logprob[row], 2)}` : "given, not sampled";
    const list = alternativesOf(run, row);
    if (!list.some((a) => a.id === id[row])) list.unshift({ id: id[row], logprob: sampled ? logprob[row] : NaN, rank: -1 });
    this.alts.replaceChildren(...list.slice(0, 8).map((a) => this.alternative(a, row, a.id === id[row], engine)));
  }

  alternative(a, row, sampled, engine) {
    const { run } = this.view;
    const p = Math.exp(a.logprob);
    const word = visible(run.word(a.id));
    const cells = [
      h("span.w", { textContent: word, title: JSON.stringify(run.word(a.id)) }),
      h("span.bar", {}, [h("i", { style: `width:${(p >= 0 ? p * 100 : 0).toFixed(1)}%` })]),
      h("span.p", { textContent: p >= 0 ? probability(p) : "" }),
      h("span.f", { textContent: sampled ? (p >= 0 ? "sampled" : "given") : "fork" }),
    ];
    if (sampled) return h("div.wb-alt.sampled", {}, cells);
    const title = engine.here ? `Fork here with ${word}` : engine.why;
    return h("button.wb-alt", { type: "button", title, disabled: !engine.here, onclick: () => this.view.acts.fork(row, a.rank, a.id) }, cells);
  }
}

function toolOf(nodes, node) {
  if (nodes.called[node] === NEVER) return "none";
  const name = nodes.tool.get(node);
  if (!(nodes.tool_seconds[node] > 0)) return `${name}, waiting`;
  return `${name}, ${duration(nodes.tool_seconds[node])}${nodes.tool_ok[node] ? "" : ", failed"}`;
}

/** Rewrites a definition list in place: scrubbing changes texts, not elements. */
function fillList(dl, rows) {
  while (dl.children.length > 2 * rows.length) dl.lastChild.remove();
  rows.forEach(([key, value], i) => {
    if (!dl.children[2 * i]) dl.append(h("dt"), h("dd"));
    const [dt, dd] = [dl.children[2 * i], dl.children[2 * i + 1]];
    if (dt.textContent !== key) dt.textContent = key;
    if (dd.textContent !== value) dd.textContent = value;
  });
}
