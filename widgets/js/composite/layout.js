/** The composite's form as a function of its own width and of what the run holds. Pure. */
import { ExpertsLane } from "../lanes/experts.js";
import { MemoryLane } from "../lanes/memory.js";
import { PoolLane } from "../lanes/pool.js";
import { OverviewLane, RulerLane, StepsLane, TokensLane } from "../lanes/small.js";
import { TreeLane } from "../lanes/tree.js";

export const LANES = {
  overview: OverviewLane, ruler: RulerLane, tree: TreeLane, memory: MemoryLane, pool: PoolLane, experts: ExpertsLane, tokens: TokensLane, steps: StepsLane,
};

/** Lane heights in px by density; `tree` is the most that its rows may take. */
const HEIGHTS = {
  compact: { row: 19, "lane-memory": 96, "lane-pool": 64, "lane-experts": 48, "lane-tokens": 28, "lane-tree": 160 },
  normal: { row: 24, "lane-memory": 150, "lane-pool": 96, "lane-experts": 64, "lane-tokens": 40, "lane-tree": 264 },
  roomy: { row: 26, "lane-memory": 232, "lane-pool": 144, "lane-experts": 96, "lane-tokens": 48, "lane-tree": 300 },
};

/** @param {number} width CSS px of the view @returns {"wide" | "three" | "two" | "narrow"} */
export function formOf(width) {
  if (width >= 1120) return "wide";
  if (width > 820) return "three";
  return width > 640 ? "two" : "narrow";
}

/** @param {number} width @param {number} windowHeight @param {string} [asked] */
export function densityOf(width, windowHeight, asked = "") {
  if (asked in HEIGHTS) return asked;
  return width >= 1120 && windowHeight >= 860 ? "roomy" : "normal";
}

/** @param {string} density @param {string} name @param {number} fallback */
export const measure = (density, name, fallback) => HEIGHTS[density]?.[name] ?? fallback;

/** Names of the lanes to show: those asked for, or all that the run has something for. */
export function lanesOf(run, asked) {
  const names = asked?.length ? ["ruler", ...asked] : Object.keys(LANES);
  return [...new Set(names)].filter((name) => LANES[name] && (LANES[name].present?.(run) ?? true)); // "pages" is no lane over the axis
}

/** Height of a lane drawn alone: there is more room than in the composite. */
export const ALONE = { "lane-memory": 240, "lane-pool": 260, "lane-experts": 200, "lane-tokens": 72, "lane-tree": 360 };
