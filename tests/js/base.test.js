import assert from "node:assert/strict";
import test from "node:test";
import { Axis } from "../../widgets/js/shared/axis.js";
import { MaxPyramid } from "../../widgets/js/shared/pyramid.js";
import { pruneEffect, residentOf, windowFull } from "../../widgets/js/shared/facts.js";
import { syntheticRun } from "./synthetic.js";

test("the pyramid's argmax is brute force's", () => {
  const values = Uint32Array.from({ length: 333 }, (_, i) => (i * 7919) % 101);
  const pyramid = new MaxPyramid(values, values.length);
  for (let a = 0; a < 333; a += 7) {
    for (let b = a + 1; b <= 333; b += 11) {
      let best = a;
      for (let i = a; i < b; i++) if (values[i] > values[best]) best = i;
      assert.equal(pyramid.argmax(a, b), best, `[${a}, ${b})`);
    }
  }
});

test("segments, alive, give the resident tokens of every step", () => {
  const run = syntheticRun({ total: 2500 });
  const all = new Uint8Array(run.tables.nodes.n).fill(1);
  for (let s = 0; s < run.n; s += 37) assert.equal(residentOf(run, all, s), run.tables.steps.resident[s], `step ${s}`);
});

test("the axis is monotone and inverts in every unit", () => {
  const run = syntheticRun({ total: 2500 });
  for (const unit of ["tokens", "steps", "wall"]) {
    const axis = new Axis(run.tables.steps, unit);
    axis.w = 900;
    for (let s = 1; s < run.n; s++) assert.ok(axis.xEnd(s) >= axis.xEnd(s - 1));
    if (unit === "steps") for (let s = 0; s < run.n; s += 13) assert.equal(axis.nearest(axis.xEnd(s)), s);
    const columns = axis.columns(900);
    for (let x = 1; x < 900; x++) assert.ok(columns[2 * x] >= columns[2 * x - 2] && columns[2 * x] <= columns[2 * x + 1]);
    axis.show(axis.total * 0.4, axis.total * 0.5);
    assert.ok(Math.abs(axis.value(axis.x(axis.total * 0.45)) - axis.total * 0.45) < 1e-6 * axis.total);
  }
});

test("of a list that is being written what stands before its newest subtask can leave", () => {
  const run = syntheticRun({ total: 2500 });
  const { nodes } = run.tables;
  const node = run.children.findIndex((c, i) => c.length > 2 && nodes.depth[i] > 0);
  const [first, , third] = run.children[node];
  const s = nodes.opened[third];
  const effect = pruneEffect(run, node, s);
  assert.deepEqual([effect.from, effect.to], [nodes.first[first], nodes.first[third]]);
  assert.ok(effect.removed > 0 && effect.why === "");
  assert.match(pruneEffect(run, node, nodes.opened[first]).why, /still open/);
  nodes.pinned[first] = 1;
  assert.ok(pruneEffect(run, node, s).removed < effect.removed);
  nodes.pinned[node] = 1;
  assert.equal(pruneEffect(run, node, s).why, "It is pinned.");
});

test("a prune that a paused engine obeyed shows before the next step", () => {
  const run = syntheticRun({ total: 2500 });
  const last = run.n - 1;
  assert.deepEqual([run.known(last), run.residentAt(last)], [last, run.tables.steps.resident[last]]);
  const { prunes } = run.tables;
  prunes.step[prunes.n - 1] = run.n;
  run.sync();
  assert.equal(run.known(last), run.n);
  assert.equal(run.known(last - 1), last - 1);
  assert.equal(run.residentAt(last), run.tables.steps.resident[last] - prunes.removed[prunes.n - 1]);
});

test("a prune's preview equals what the prune then did", () => {
  const run = syntheticRun({ total: 2500 });
  const { prunes } = run.tables;
  assert.ok(prunes.n > 3);
  for (let i = 0; i < prunes.n; i++) {
    const effect = pruneEffect(run, prunes.node[i], prunes.step[i] - 1);
    assert.equal(effect.removed, prunes.removed[i]);
    assert.equal(effect.reencoded, prunes.reencoded[i]);
    assert.ok(Math.abs(effect.pages - prunes.pages_freed[i]) <= 1);
    assert.equal(pruneEffect(run, prunes.node[i], prunes.step[i]).removed, 0);
  }
  assert.ok(windowFull(run) > 0);
});
