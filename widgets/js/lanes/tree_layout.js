/** Where the tree's bars stand. Pure: rows by depth, a track a branch, x from the axis. */
import { NEVER } from "../shared/wire.js";

export const NARROW = 2.5; // px: narrower bars join their neighbours of the same owner
const GAP = 8; // px between tracks
const PACKED = 4; // tracks beyond which short branches share lines and their prefix is not drawn

/** Forms that a row may take, from the best to the last: [row, band, strip] in px. */
const SIZES = [14, 6, 3].map((row) => ({ row, band: row - 1, strip: 0 }));

/** Lines of one row each shrink first, then the trees, until all stands within `room`. */
function sizesFor(lines, room, preferred) {
  const full = { row: preferred, band: preferred - 8, strip: 5 };
  const choices = [[full, full], ...SIZES.map((s) => [full, s]), ...SIZES.map((s) => [s, SIZES.find((t) => t.row <= Math.min(6, s.row))])];
  const height = ([tree, line]) => lines.reduce((sum, rows) => sum + rows * (rows > 1 ? tree : line).row + gapOf(line), 0);
  return choices.find((c) => height(c) <= room) ?? choices.at(-1);
}

const gapOf = (size) => (size.row < 14 ? 2 : size.row < 19 ? 4 : GAP);

/** Branches on lines: beyond a few, short ones that do not overlap in time share a line. */
function linesOf(used) {
  const lines = [];
  for (const t of used) {
    const free = used.length > PACKED && t.rows === 1 ? lines.find((l) => l.rows === 1 && l.end <= t.from) : undefined;
    if (free) {
      free.tracks.push(t);
      free.end = t.to;
    } else lines.push({ rows: t.rows, end: t.to, tracks: [t] });
  }
  return lines;
}

/** A fork's own root holds its open tasks: it gets no row, they stand in the first. Flags over branches. */
function liftOf(run) {
  const { branches, nodes } = run.tables;
  const lift = new Uint8Array(Math.max(1, branches.n));
  for (let i = 0; i < nodes.n; i++) {
    const b = nodes.branch[i];
    if (branches.parent?.[b] >= 0 && nodes.depth[i] === 2 && nodes.branch[nodes.parent[i]] === b) lift[b] = 1;
  }
  return lift;
}

/**
 * Tracks from top to bottom: one a branch that has tokens; a fork lies under what it left. Each has the place
 * `y`, and its own row, band and strip.
 * @param {import("../shared/run.js").Run} run
 */
export function tracksOf(run, room, preferred) {
  const { branches, nodes } = run.tables;
  const depth = new Uint8Array(Math.max(1, branches.n));
  for (let i = 0; i < nodes.n; i++) depth[nodes.branch[i]] = Math.max(depth[nodes.branch[i]], nodes.depth[i]);
  const lift = liftOf(run);
  const used = [];
  for (let b = 0; b < Math.max(1, branches.n); b++) {
    const [o0, o1] = [run.branchStart[b] ?? 0, run.branchStart[b + 1] ?? 0];
    if (o1 <= o0 && (b || branches.n > 1)) continue;
    const parent = branches.n ? branches.parent[b] : -1;
    const at = branches.n ? branches.at[b] : NEVER;
    const first = run.order[o0] ?? 0;
    used.push({ branch: b, rows: Math.max(1, depth[b] - lift[b]), lift: lift[b], own: run.order[o0] ?? 0, parent, at, from: Math.min(first, at), to: (run.order[o1 - 1] ?? 0) + 1 });
  }
  const lines = linesOf(used);
  const [tree, line] = sizesFor(lines.map((l) => l.rows), room, preferred);
  let y = 0;
  for (const l of lines) {
    const size = l.rows > 1 ? tree : line;
    for (const t of l.tracks) Object.assign(t, size, { y });
    y += l.rows * size.row + gapOf(line);
  }
  return { tracks: used, rails: used.length <= PACKED, height: Math.max(0, y - gapOf(line)) };
}

/** Nodes by track and row, each list in order of the first token: made once per message. */
export function rowsOf(run, tracks) {
  const { nodes } = run.tables;
  const byBranch = new Map(tracks.map((t, i) => [t.branch, i]));
  /** @type {Map<string, {track: number, depth: number, list: number[]}>} */
  const rows = new Map();
  for (let i = 0; i < nodes.n; i++) {
    const track = byBranch.get(nodes.branch[i]);
    if (track === undefined || nodes.depth[i] <= tracks[track].lift) continue;
    const key = `${track} ${nodes.depth[i]}`;
    if (!rows.has(key)) rows.set(key, { track, depth: nodes.depth[i], list: [] });
    rows.get(key).list.push(i);
  }
  return [...rows.values()];
}

/**
 * Bars in view: {node, x0, x1, y, many, depth}. `many` > 1 is an aggregate of narrow neighbours of one owner.
 * @param {Set<number>} [folded] nodes whose subtree is collapsed
 */
export function treeBars(run, axis, layout, rows, folded = new Set()) {
  const { nodes } = run.tables;
  const hidden = folded.size ? hiddenNodes(run, folded) : null;
  const out = [];
  for (const { track, depth, list } of rows) {
    const t = layout.tracks[track];
    const row = depth - t.lift;
    const y = t.y + (row - 1) * t.row;
    const from = t.parent < 0 ? -Infinity : axis.xRow(t.own); // what stands before is the parent's, a rail here
    let join = null;
    for (const i of list) {
      if (hidden?.[i]) continue;
      const x0 = Math.max(from, axis.xRow(nodes.first[i]));
      const x1 = axis.xRow(run.lastRow(i));
      if (x1 < -2 || x0 > axis.w + 2) continue;
      if (x1 - x0 < NARROW) {
        if (join && join.owner === nodes.owner[i] && x0 - join.x1 < NARROW) {
          join.x1 = Math.max(join.x1, x1);
          join.many++;
          continue;
        }
        join = { node: i, x0, x1, y, depth, row, t, owner: nodes.owner[i], many: 1 };
        out.push(join);
        continue;
      }
      join = null;
      out.push({ node: i, x0, x1, y, depth, row, t, owner: nodes.owner[i], many: 1 });
    }
  }
  return out;
}

function hiddenNodes(run, folded) {
  const { nodes } = run.tables;
  const flags = new Uint8Array(nodes.n);
  for (let i = 0; i < nodes.n; i++) {
    const p = nodes.parent[i];
    flags[i] = p >= 0 && (flags[p] || folded.has(p)) ? 1 : 0;
  }
  return flags;
}

/** The bar under a point, or null. */
export function barAt(bars, x, y) {
  const hit = bars.filter((b) => x >= b.x0 - 1 && x <= Math.max(b.x1, b.x0 + 2) && y >= b.y && y < b.y + b.t.row);
  return hit.at(-1) ?? null;
}
