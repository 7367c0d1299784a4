/** Numbers and words as every view writes them. */

const THIN = "\u2009";
const MINUS = "\u2212";

/** 1717 -> "1 717" with a thin space. @param {number} v */
export function num(v) {
  const s = String(Math.round(Math.abs(v))).replace(/\B(?=(\d{3})+$)/g, THIN);
  return (v < 0 ? MINUS : "") + s;
}

/** A share as per cent: one decimal under 10 %. @param {number} share */
export function percent(share) {
  const p = share * 100;
  return `${p !== 0 && Math.abs(p) < 9.95 ? p.toFixed(1) : num(p)}${THIN}%`;
}

/** Seconds in the unit that reads best. @param {number} s */
export function duration(s) {
  if (!Number.isFinite(s)) return "?";
  if (s < 0.0995) return `${(s * 1000).toFixed(s < 0.00995 ? 1 : 0)}${THIN}ms`;
  if (s < 0.9995) return `${Math.round(s * 1000)}${THIN}ms`;
  if (s < 100) return `${s.toFixed(1)}${THIN}s`;
  if (s < 6000) return `${num(s)}${THIN}s`;
  return `${(s / 60).toFixed(1)}${THIN}min`;
}

/** "1 token", "2 tokens". @param {number} n @param {string} word */
export const count = (n, word) => `${num(n)} ${word}${n === 1 ? "" : "s"}`;

/** A probability as ".435". @param {number} p */
export function probability(p) {
  if (p >= 0.9995) return "1.000";
  if (p < 0.0005) return `<${THIN}.001`;
  return p.toFixed(3).replace(/^0/, "");
}

/** Signed with a true minus. @param {number} v @param {number} digits */
export const signed = (v, digits) => (v < 0 ? MINUS : "") + Math.abs(v).toFixed(digits);

/** Spaces and line ends of a token made visible. @param {string} text */
export function visible(text) {
  if (text === "") return "\u2205";
  return text.replace(/^ /, "\u2423").replace(/\n/g, "\u23ce").replace(/\t/g, "\u21e5");
}
