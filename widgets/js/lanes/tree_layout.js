/** Where the tree's bars stand. Pure: rows by depth, a track a branch, x from the axis. */
import { NEVER } from "../shared/wire.js";

export const NARROW = 2.5; // px: narrower bars join their neighbours of the same owner
const GAP = 8; // px between tracks

/** Row heights by how many rows there are: [row, band, strip]. */
function rowSizes(rows, room, preferred) {
  if (rows * preferred <= room) return { row: preferred, band: preferred - 8, strip: 5 };
  if (rows * 14 <= room) return { row: 14, band: 13, strip: 0 };
  if (rows * 6 <= room) return { row: 6, band: 5, strip: 0 };
  return { row: 3, band: 2, strip: 0 };
}

/**
 * Tracks from top to bottom: one a branch that has tokens; a fork lies under what it left.
 * @param {import("../shared/run.js").Run} run
 */
export function tracksOf(run, room, preferred) {
  const { branches, nodes } = run.tables;
  const depth = new Uint8Array(Math.max(1, branches.n));
  for (let i = 0; i < nodes.n; i++) depth[nodes.branch[i]] = Math.max(depth[nodes.branch[i]], nodes.depth[i]);
  const used = [];
  for (let b = 0; b < branches.n; b++) if (run.branchStart[b + 1] > run.branchStart[b]) used.push(b);
  if (!used.length) used.push(0);
  const rows = used.reduce((sum, b) => sum + Math.max(1, depth[b]), 0);
  const sizes = rowSizes(rows, room - GAP * (used.length - 1), preferred);
  const gap = sizes.row < 14 ? 2 : GAP;
  let y = 0;
  const tracks = [];
  for (const b of used) {
    const count = Math.max(1, depth[b]);
    const parent = branches.n ? branches.parent[b] : -1;
    tracks.push({ branch: b, y, rows: count, parent, at: branches.n ? branches.at[b] : NEVER });
    y += count * sizes.row + gap;
  }
  return { tracks, ...sizes, height: y - gap };
}

/** Nodes by track and row, each list in order of the first token: made once per message. */
export function rowsOf(run, tracks) {
  const { nodes } = run.tables;
  const byBranch = new Map(tracks.map((t, i) => [t.branch, i]));
  /** @type {Map<string, {track: number, depth: number, list: number[]}>} */
  const rows = new Map();
  for (let i = 0; i < nodes.n; i++) {
    const track = byBranch.get(nodes.branch[i]);
    if (track === undefined || nodes.depth[i] === 0) continue;
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
    const y = layout.tracks[track].y + (depth - 1) * layout.row;
    let join = null;
    for (const i of list) {
      if (hidden?.[i]) continue;
      const x0 = axis.xRow(nodes.first[i]);
      const x1 = axis.xRow(run.lastRow(i));
      if (x1 < -2 || x0 > axis.w + 2) continue;
      if (x1 - x0 < NARROW) {
        if (join && join.owner === nodes.owner[i] && x0 - join.x1 < NARROW) {
          join.x1 = Math.max(join.x1, x1);
          join.many++;
          continue;
        }
        join = { node: i, x0, x1, y, depth, owner: nodes.owner[i], many: 1 };
        out.push(join);
        continue;
      }
      join = null;
      out.push({ node: i, x0, x1, y, depth, owner: nodes.owner[i], many: 1 });
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
export function barAt(bars, layout, x, y) {
  const hit = bars.filter((b) => x >= b.x0 - 1 && x <= Math.max(b.x1, b.x0 + 2) && y >= b.y && y < b.y + layout.row);
  return hit.at(-1) ?? null;
}
