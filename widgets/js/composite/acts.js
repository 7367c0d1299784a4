/** Finished gestures as wishes: sent, answered or refused; each shows the call that does the same. */

const LATE = 300; // ms without an answer after which the view says so
const WORDS = { pause: "Pause", resume: "Resume", step: "Step", step_out: "Step out", prune: "Prune", pin: "Pin", unpin: "Unpin", note: "Note", fork: "Fork" };

/** @param {any} view */
export function makeActs(view) {
  /** @returns {Promise<any>} */
  async function send(verb, args, call = null) {
    if (!view.engine.here) {
      view.say({ kind: "info", words: `${WORDS[verb]} needs an engine: ${view.engine.why}.` });
      return null;
    }
    if (call) view.lastCall = call;
    const began = performance.now();
    const late = setTimeout(() => {
      const seconds = ((performance.now() - began) / 1000).toFixed(1);
      view.say({ kind: "warn", words: `${WORDS[verb]} was sent ${seconds}\u2009s ago; the kernel has not answered yet.` });
    }, LATE);
    const answer = await view.engine.send(verb, args);
    clearTimeout(late);
    if (answer.ok) view.say(null);
    else view.say({ kind: "bad", words: refusal(verb, args, answer.why), acts: offers(verb, args) });
    view.el.live.textContent = answer.ok ? `${WORDS[verb]}: done` : answer.why;
    view.ask("step");
    return answer;
  }

  function refusal(verb, args, why) {
    const what = args.node === undefined ? "" : ` ${view.run.tables.nodes.path.get(args.node)}`;
    return `Cannot ${WORDS[verb].toLowerCase()}${what}: ${why}`;
  }

  /** What would work instead. */
  function offers(verb, args) {
    const { run } = view;
    if (verb !== "prune") return [];
    const { nodes } = run.tables;
    const path = nodes.path.get(args.node);
    const open = nodes.closed[args.node] > run.n - 1;
    return open ? [[`Step out of ${path}`, () => send("step_out", { node: args.node }, "run.step_out()")]] : [];
  }

  const path = (node) => view.run.tables.nodes.path.get(node);
  return {
    send,
    pause: () => send("pause", {}, "run.pause()"),
    resume: () => send("resume", {}, "run.resume()"),
    step: () => send("step", { n: 1 }, "run.step()"),
    stepOut: () => send("step_out", {}, "run.step_out()"),
    /** First the preview (hovering the button shows it too); Enter or a second Prune confirms. */
    prune(node) {
      if (!view.engine.here) return send("prune", { node });
      if (view.preview?.node === node) return this.confirm();
      view.showPrune(node);
      if (view.preview) view.el.live.textContent = "Enter confirms, Escape drops the preview";
      else send("prune", { node }, `run.prune("${path(node)}")`);
    },
    confirm() {
      const { node } = view.preview;
      view.showPrune(-1);
      return send("prune", { node }, `run.prune("${path(node)}")`);
    },
    pin(node) {
      const pinned = view.run.tables.nodes.pinned[node] === 1;
      return send(pinned ? "unpin" : "pin", { node }, `run.pin("${path(node)}"${pinned ? ", False" : ""})`);
    },
    note(node) {
      if (!view.engine.here) return send("note", { node });
      view.inspector?.askNote();
    },
    fork(row, rank, id) {
      const index = view.run.tables.tokens.index[row];
      view.el.over.focus({ preventScroll: true }); // the button goes with the next frame
      return send("fork", { row, rank, token: id }, `run.fork(${index}, rank=${rank})`);
    },
  };
}
