/** Colours of the tokens, read once per theme change through a probe, packed for pixel work. */

/** @typedef {[number, number, number]} Rgb */

const NAMES =
  "app surface ground raised sunken line line-strong ink ink-2 ink-3 accent accent-ink cursor warn bad ok miss neutral run-a run-b " +
  "ph-prefill ph-decode ph-extend ph-wait ph-reencode";

/** Share of the owner's colour that a depth keeps; 0 and 1 are the same. */
const DEPTH = [1, 1, 0.74, 0.54, 0.4, 0.3];

/** "rgb(1, 2, 3)" or "color(srgb 0.1 0.2 0.3)" to bytes. @param {string} text @returns {Rgb} */
export function parseColour(text) {
  const m = (text.match(/-?[\d.]+(e-?\d+)?/g) ?? ["0", "0", "0"]).map(Number);
  const bytes = /^color\(/.test(text) ? m.slice(0, 3).map((v) => Math.round(v * 255)) : m.slice(0, 3);
  return /** @type {Rgb} */ (bytes);
}

/** Relative luminance (WCAG 2). @param {Rgb} c */
export function luminance(c) {
  const [r, g, b] = c.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** @param {Rgb} a @param {Rgb} b */
export function contrast(a, b) {
  const [x, y] = [luminance(a), luminance(b)];
  return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
}

/** `share` of a over b. @param {Rgb} a @param {Rgb} b @param {number} share @returns {Rgb} */
export const mix = (a, b, share) => /** @type {Rgb} */ (a.map((v, i) => Math.round(v * share + b[i] * (1 - share))));

/** Packed for a Uint32Array over image data (little-endian). @param {Rgb} c */
export const pack = (c) => ((255 << 24) | (c[2] << 16) | (c[1] << 8) | c[0]) >>> 0;

/** @param {Rgb} c @param {number} [alpha] */
export const css = (c, alpha = 1) => (alpha === 1 ? `rgb(${c})` : `rgba(${c},${alpha})`);

export class Theme {
  /** @param {(token: string) => string} colourOf computed colour of a token @param {(token: string) => string} textOf */
  constructor(colourOf, textOf) {
    const read = (name) => parseColour(colourOf(name));
    for (const name of NAMES.split(" ")) this[name.replace(/-(\w)/g, (_, c) => c.toUpperCase())] = read(name);
    this.owner = Array.from({ length: 12 }, (_, i) => read(`owner-${i + 1}`));
    this.seq = Array.from({ length: 8 }, (_, i) => read(`seq-${i}`));
    this.ui = textOf("font-ui") || "sans-serif";
    this.mono = textOf("font-mono") || "monospace";
    this.dark = luminance(this.ground) < 0.2;
    /** @type {Map<string, HTMLCanvasElement>} tiles of hatches and dots, by colour and pitch */
    this.tiles = new Map();
    this.heat = Array.from({ length: 64 }, (_, i) => this.sequential(i / 63));
  }

  /** @param {number} owner 1..12, 0 neutral @returns {Rgb} */
  ownerColour(owner) {
    return owner === 0 ? this.neutral : this.owner[(owner - 1) % 12];
  }

  /** Full fill of an owner at a depth. @param {number} owner @param {number} depth */
  fill(owner, depth) {
    return mix(this.ownerColour(owner), this.ground, owner === 0 ? 0.85 : DEPTH[Math.min(5, depth)]);
  }

  /** The pale band of a tree bar. @param {number} owner */
  band(owner) {
    return mix(this.ownerColour(owner), this.ground, this.dark ? 0.36 : 0.28);
  }

  /** What is still to come. @param {number} owner */
  pale(owner) {
    return mix(this.ownerColour(owner), this.ground, this.dark ? 0.13 : 0.08);
  }

  /** Not selected: hue kept at a quarter. @param {Rgb} c */
  muted(c) {
    const grey = Math.round((c[0] + c[1] + c[2]) / 3);
    return mix(mix(c, [grey, grey, grey], 0.55), this.ground, this.dark ? 0.3 : 0.26);
  }

  /** Point of the sequential scale. @param {number} v 0..1 @returns {Rgb} */
  sequential(v) {
    const u = Math.min(1, Math.max(0, v)) * 7;
    const i = Math.min(6, Math.floor(u));
    return mix(this.seq[i + 1], this.seq[i], u - i);
  }
}

/** Reads the theme that `el` (a `.wb`) wears now. @param {HTMLElement} el */
export function readTheme(el) {
  const probe = el.ownerDocument.createElement("i");
  probe.style.cssText = "position:absolute;visibility:hidden;forced-color-adjust:none";
  el.append(probe);
  const style = getComputedStyle(probe);
  const colourOf = (name) => {
    probe.style.color = `var(--wb-${name})`;
    return style.color;
  };
  const theme = new Theme(colourOf, (name) => getComputedStyle(el).getPropertyValue(`--wb-${name}`).trim());
  // A host's surface may leave third ink illegible: wear our own surfaces then.
  if (contrast(theme.ink3, theme.surface) < 4.45 && !el.dataset.wbSurface) {
    el.dataset.wbSurface = "own";
    probe.remove();
    return readTheme(el);
  }
  probe.remove();
  return theme;
}

/** Calls back whenever the theme may have changed. @param {HTMLElement} el @param {() => void} changed @param {AbortSignal} signal */
export function watchTheme(el, changed, signal) {
  const again = () => {
    delete el.dataset.wbSurface;
    changed();
  };
  for (const query of ["(prefers-color-scheme: dark)", "(prefers-contrast: more)", "(forced-colors: active)", "print"]) {
    matchMedia(query).addEventListener("change", again, { signal });
  }
  addEventListener("beforeprint", again, { signal });
  const watch = new MutationObserver(again);
  const options = { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "data-wb-theme", "data-wb-density"] };
  // a host may hang the view into the document only after it is made: what stands above it is known then
  const attach = (late) => {
    if (signal.aborted) return;
    if (!el.isConnected) return void requestAnimationFrame(() => attach(true));
    for (let a = /** @type {HTMLElement | null} */ (el); a; a = a.parentElement) watch.observe(a, options);
    if (late) again();
  };
  attach(false);
  signal.addEventListener("abort", () => watch.disconnect(), { once: true });
}
