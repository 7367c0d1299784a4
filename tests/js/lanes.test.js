import assert from "node:assert/strict";
import test from "node:test";
import { Axis } from "../../widgets/js/shared/axis.js";
import { formOf, lanesOf } from "../../widgets/js/composite/layout.js";
import { shownPart } from "../../widgets/js/composite/node_text.js";
import { imbalance } from "../../widgets/js/lanes/experts.js";
import { bandOf, dropLabels, memoryRaster, peakSteps, scaleTop, visibleFolds } from "../../widgets/js/lanes/memory_layout.js";
import { pageRows, poolRaster } from "../../widgets/js/lanes/pool.js";
import { entropyColumns, phaseRuns } from "../../widgets/js/lanes/small.js";
import { NARROW, barAt, rowsOf, tracksOf, treeBars } from "../../widgets/js/lanes/tree_layout.js";
import { gridFit, pagesAt, staysByPage } from "../../widgets/js/lanes/pages_layout.js";
import { openNodes, outlineRows, topOf } from "../../widgets/js/outline/layout.js";
import { syntheticRun } from "./synthetic.js";

const run = syntheticRun({ total: 3000, experts: 8 });
const axisOf = (unit, w) => Object.assign(new Axis(run.tables.steps, unit), { w });

test("a column shows the step with the most resident tokens under it", () => {
  const W = 200;
  const axis = axisOf("tokens", W);
  const steps = peakSteps(run, axis, W);
  const spans = axis.columns(W);
  for (let x = 0; x < W; x++) {
    let most = 0;
    for (let s = spans[2 * x]; s <= spans[2 * x + 1]; s++) most = Math.max(most, run.tables.steps.resident[s]);
    assert.equal(run.tables.steps.resident[steps[x]], most);
  }
  assert.equal(Math.max(...[...steps].map((s) => run.tables.steps.resident[s])), run.peak, "the peak is in the picture");
});

test("the filling of memory is what is resident, oldest below, and reaches the sawtooth", () => {
  const [W, H] = [120, 400];
  const axis = axisOf("tokens", W);
  const columns = peakSteps(run, axis, W);
  const top = scaleTop(run);
  const { raster, tops } = memoryRaster(run, columns, W, H, top);
  const { tokens, steps } = run.tables;
  for (let x = 0; x < W; x += 7) {
    const s = columns[x];
    const resident = [...tokens.born].map((b, r) => (b <= s && s < tokens.died[r] ? r : -1)).filter((r) => r >= 0);
    assert.equal(resident.length, steps.resident[s]);
    assert.ok(Math.abs(H - tops[x] - (steps.resident[s] / top) * H) <= 1);
    for (let y = tops[x] + 1; y < H; y += 5) {
      const seg = raster[y * W + x] - 1;
      const height = ((H - y - 0.5) / H) * top; // tokens below this pixel
      const node = tokens.node[resident[Math.min(resident.length - 1, Math.floor(height))]];
      const near = [-2, -1, 0, 1, 2].map((d) => tokens.node[resident[Math.max(0, Math.min(resident.length - 1, Math.floor(height) + d))]]);
      assert.ok(run.segs.node[seg] === node || near.includes(run.segs.node[seg]), `x ${x} y ${y}`);
    }
  }
});

test("the selection's band is the member's pixels and nothing else", () => {
  const [W, H] = [90, 200];
  const { raster } = memoryRaster(run, peakSteps(run, axisOf("tokens", W), W), W, H, scaleTop(run));
  const flags = Uint8Array.from({ length: run.segs.n }, (_, i) => (run.segs.node[i] === 1 ? 1 : 0));
  const { upper, lower } = bandOf(raster, W, H, flags);
  for (let x = 0; x < W; x++) {
    const ys = [...Array(H).keys()].filter((y) => raster[y * W + x] && flags[raster[y * W + x] - 1]);
    assert.equal(upper[x], ys.length ? ys[0] : -1);
    assert.equal(lower[x], ys.length ? ys.at(-1) + 1 : -1);
  }
});

test("drops are labelled largest first, 52 px apart; crowded folds keep their distance", () => {
  const axis = axisOf("tokens", 900);
  const labels = dropLabels(run, axis, 900, 900);
  assert.ok(labels.length > 1);
  for (const a of labels) for (const b of labels) assert.ok(a === b || Math.abs(a.x - b.x) >= 52);
  const big = syntheticRun({ total: 30000 });
  const wide = Object.assign(new Axis(big.tables.steps, "tokens"), { w: 300 });
  const folds = visibleFolds(big, wide, 300, null).map((f) => f.x).sort((a, b) => a - b);
  assert.ok(folds.length > 5 && folds.length < big.tables.prunes.n);
  for (let i = 1; i < folds.length; i++) assert.ok(folds[i] - folds[i - 1] >= 9);
});

test("the pool shows who lies on a page at a step", () => {
  const [W, H] = [300, 192];
  const axis = axisOf("steps", W);
  const raster = poolRaster(run, axis, W, H);
  const rows = pageRows(run);
  const { pages } = run.tables;
  for (let x = 3; x < W; x += 17) {
    const s = axis.stepAt(x + 0.5);
    for (let page = 0; page < rows; page += 3) {
      const y = Math.floor(((page + 0.5) * H) / rows);
      let held = -1;
      for (let i = 0; i < pages.n; i++) if (pages.page[i] === page && pages.from[i] <= s && s < pages.to[i]) held = i;
      const shown = raster[y * W + x] - 1;
      const border = shown >= 0 && Math.min(Math.abs(pages.from[shown] - s), Math.abs(pages.to[shown] - s)) < run.n / W;
      const near = held >= 0 && Math.min(Math.abs(pages.from[held] - s), Math.abs(pages.to[held] - s)) < run.n / W;
      assert.ok(shown === held || border || near, `page ${page} at step ${s}`);
    }
  }
});

test("bars stand where their tokens stand; narrow neighbours of one owner join", () => {
  const axis = axisOf("tokens", 90);
  const layout = tracksOf(run, 260, 24);
  const bars = treeBars(run, axis, layout, rowsOf(run, layout.tracks));
  const { nodes } = run.tables;
  for (const b of bars) if (b.many === 1) assert.ok(Math.abs(b.x0 - axis.xRow(nodes.first[b.node])) < 1e-6);
  assert.ok(bars.some((b) => b.many > 1));
  assert.equal(bars.reduce((n, b) => n + b.many, 0), [...nodes.depth].filter((d) => d > 0).length, "no node is lost");
  const wide = bars.find((b) => b.x1 - b.x0 > 3 * NARROW && b.many === 1);
  assert.equal(barAt(bars, (wide.x0 + wide.x1) / 2, wide.y + 2).node, wide.node);
});

test("rows shrink before they leave the lane", () => {
  const rowOf = (room) => tracksOf(run, room, 24).tracks[0].row;
  assert.equal(rowOf(400), 24);
  assert.equal(rowOf(70), 14);
  assert.equal(rowOf(40), 6);
});

test("phases cover every step once, waits only on wall time", () => {
  for (const unit of ["steps", "wall"]) {
    const axis = axisOf(unit, 4000);
    const runs = phaseRuns(run, axis, 4000);
    for (let i = 1; i < runs.length; i++) assert.ok(runs[i].x0 >= runs[i - 1].x1 - 0.02);
    assert.ok(runs.some((r) => r.phase === 4) === (unit === "wall"));
  }
});

test("entropy by column is the mean and the largest of its tokens", () => {
  const axis = axisOf("tokens", 100);
  const { mean, most } = entropyColumns(run, axis, 100);
  const { entropy } = run.tables.tokens;
  const [a, b] = [40 * (run.tokenCount / 100), 41 * (run.tokenCount / 100)];
  const own = [...entropy.slice(Math.ceil(a), Math.ceil(b))].filter((e) => e >= 0);
  if (!own.length) return assert.equal(most[40], -1);
  assert.ok(Math.abs(mean[40] - own.reduce((x, y) => x + y, 0) / own.length) < 1e-4);
  assert.ok(Math.abs(most[40] - Math.max(...own)) < 1e-6);
});

test("imbalance is busiest over mean, by brute force", () => {
  const axis = axisOf("steps", 90);
  const columns = 30;
  const found = imbalance(run, axis, columns);
  const spans = axis.columns(columns);
  const { routes } = run.tables;
  for (const [layer, x] of [[0, 3], [5, 12], [11, 29]]) {
    const load = new Array(8).fill(0);
    for (let i = 0; i < routes.n; i++) {
      if (routes.layer[i] === layer && routes.step[i] >= spans[2 * x] && routes.step[i] <= spans[2 * x + 1]) load[routes.expert[i]] += routes.count[i];
    }
    const mean = load.reduce((a, b) => a + b, 0) / 8;
    assert.ok(Math.abs(found[layer * columns + x] - Math.max(...load) / mean) < 1e-5);
  }
});

test("the form follows the width, the lanes follow the run", () => {
  assert.deepEqual([420, 641, 820, 821, 1119, 1120].map(formOf), ["narrow", "two", "two", "three", "three", "wide"]);
  assert.ok(lanesOf(run).includes("experts"));
  assert.ok(!lanesOf(syntheticRun({ total: 400 })).includes("experts"));
  assert.deepEqual(lanesOf(run, ["pool"]), ["ruler", "pool"]);
});

test("a long field shows the surroundings of the focused token", () => {
  const rows = Array.from({ length: 500 }, (_, i) => 1000 + i);
  const [a, b] = shownPart(rows, 1300);
  assert.ok(a <= 300 && b > 300 && b - a === 160);
  assert.deepEqual(shownPart(rows, -1), [0, 48]);
  assert.deepEqual(shownPart(rows.slice(0, 20), 1005), [0, 20]);
});

test("the outline opens, and search keeps matches and what leads to them", () => {
  const top = topOf(run);
  const closed = outlineRows(run, new Set());
  assert.deepEqual(closed.map((r) => r.node), top);
  const deep = run.tables.nodes.depth.indexOf(3);
  const path = run.tables.nodes.path.get(deep);
  const found = outlineRows(run, new Set(), path);
  assert.ok(found.some((r) => r.node === deep));
  assert.ok(found.some((r) => r.node === run.tables.nodes.parent[deep]));
  assert.ok(found.length < run.tables.nodes.n);
});

test("the page grid fits, counts in eights, and holds what lies there", () => {
  for (const [n, w, h] of [[128, 876, 260], [192, 300, 200], [100000, 900, 110], [7, 120, 60]]) {
    const { cell, columns, rows } = gridFit(n, w, h);
    assert.equal(columns % 8, 0);
    assert.ok(columns * rows >= n);
    assert.ok(cell === 1 || (columns * cell <= w && rows * cell <= h));
  }
  const stays = staysByPage(run);
  const { pages, steps } = run.tables;
  for (let s = 5; s < run.n; s += 101) {
    const cells = pagesAt(run, stays, s);
    assert.equal(cells.filter((c) => c.stay >= 0).length, steps.pages[s], `step ${s}`);
    for (const c of cells) if (c.ghost >= 0) assert.ok(pages.to[c.ghost] <= s && s - pages.to[c.ghost] < 160);
  }
});

test("what the reader opened stays open, the rest follows the run", () => {
  const opened = openNodes(run, run.tables.nodes.n - 1, new Map([[0, false], [2, true]]));
  assert.ok(!opened.has(0) && opened.has(2));
  assert.ok(run.ancestors(run.tables.nodes.n - 1).every((a) => a === 0 || opened.has(a)));
});
