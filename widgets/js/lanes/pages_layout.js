/** The pool at one step: which stay lies on each page, how it is drawn. Pure. */
import { NEVER } from "../shared/wire.js";

export const GHOST = 160; // steps that a freed page is remembered

/** Columns are a multiple of eight so that an address can be read; cells as large as fit. */
export function gridFit(pages, w, h, most = 34) {
  for (let cell = most; cell > 1; cell--) {
    const columns = Math.max(8, Math.floor(w / cell / 8) * 8);
    if (columns * cell <= w && Math.ceil(pages / columns) * cell <= h) return { cell, columns, rows: Math.ceil(pages / columns) };
  }
  const columns = Math.max(8, Math.floor(w / 8) * 8);
  return { cell: 1, columns, rows: Math.ceil(pages / columns) };
}

/** Rows of `pages` of each page, in order of time. @param {import("../shared/run.js").Run} run @returns {number[][]} */
export function staysByPage(run) {
  const { pages } = run.tables;
  const out = Array.from({ length: run.meta.pages || 0 }, () => []);
  for (let i = 0; i < pages.n; i++) out[pages.page[i]]?.push(i);
  return out;
}

/**
 * Each page after step s: {stay, ghost}; stay -1 is free. A ghost is the stay that ended within GHOST steps.
 * @param {number[][]} stays
 */
export function pagesAt(run, stays, s) {
  const { pages } = run.tables;
  return stays.map((list) => {
    let last = -1;
    for (const i of list) if (pages.from[i] <= s) last = i;
    if (last < 0) return { stay: -1, ghost: -1 };
    if (s < pages.to[last]) return { stay: last, ghost: -1 };
    return { stay: -1, ghost: pages.to[last] !== NEVER && s - pages.to[last] < GHOST ? last : -1 };
  });
}

/** Slots taken at step s: those at the end of the stay, or at most what was born by then. */
export function fillAt(run, stay, s) {
  const { pages } = run.tables;
  const size = run.meta.page_size || 1;
  return s < pages.from[stay] ? 0 : Math.min(1, pages.used[stay] / size);
}
