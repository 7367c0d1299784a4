/** Small painters that every lane uses: text, hatches, rings, canvases at device scale. */
import { css } from "./theme.js";

/** Device pixels per CSS pixel of a canvas drawn by `fit`. */
export const ratio = () => Math.max(1, globalThis.devicePixelRatio || 1);

/** Sizes a canvas and returns its context in CSS pixels, cleared unless told otherwise. @param {HTMLCanvasElement} canvas */
export function fit(canvas, w, h, clear = true) {
  const d = ratio();
  const [W, H] = [Math.max(1, Math.round(w * d)), Math.max(1, Math.round(h * d))];
  if (canvas.width !== W || canvas.height !== H) {
    canvas.width = W;
    canvas.height = H;
    canvas.style.width = `${w}px`;
    canvas.style.height = `${h}px`;
  }
  const g = canvas.getContext("2d");
  g.setTransform(d, 0, 0, d, 0, 0);
  if (clear) g.clearRect(0, 0, w, h);
  return g;
}

function tiled(g, theme, key, size, draw) {
  const d = Math.max(1, Math.round(ratio()));
  let tile = theme.tiles.get(key + d);
  if (!tile) {
    tile = document.createElement("canvas");
    tile.width = tile.height = size * d;
    const q = tile.getContext("2d");
    q.scale(d, d);
    draw(q);
    theme.tiles.set(key + d, tile);
  }
  const pattern = g.createPattern(tile, "repeat");
  pattern.setTransform(new DOMMatrix().scaleSelf(1 / ratio()));
  return pattern;
}

/** Diagonal lines, one every `pitch` CSS pixels: pruned, waiting, cut. */
export function hatch(g, theme, colour, alpha = 1, pitch = 5) {
  return tiled(g, theme, `hatch ${colour} ${alpha} ${pitch} `, pitch, (q) => {
    q.strokeStyle = css(colour, alpha);
    q.lineWidth = 1.15;
    q.beginPath();
    for (const o of [-pitch, 0, pitch]) {
      q.moveTo(o - 1, pitch + 1);
      q.lineTo(o + pitch + 1, -1);
    }
    q.stroke();
  });
}

/** Dots every 3 CSS pixels: a tool's result. */
export function dots(g, theme, colour) {
  return tiled(g, theme, `dots ${colour} `, 3, (q) => {
    q.fillStyle = css(colour);
    q.fillRect(0, 0, 1.2, 1.2);
    q.fillRect(1.5, 1.5, 1.2, 1.2);
  });
}

/**
 * One line of text. `halo` draws a rim of that colour behind it.
 * @param {{size?: number, weight?: number, colour?: number[], align?: CanvasTextAlign, mono?: boolean, halo?: number[], alpha?: number}} [o]
 */
export function text(g, theme, s, x, y, o = {}) {
  g.font = `${o.weight ?? 400} ${o.size ?? 11}px ${o.mono ? theme.mono : theme.ui}`;
  g.textAlign = o.align ?? "left";
  g.textBaseline = "middle";
  if (o.halo) {
    g.strokeStyle = css(o.halo, 0.88);
    g.lineWidth = 3;
    g.lineJoin = "round";
    g.strokeText(s, x, y);
  }
  g.fillStyle = css(o.colour ?? theme.ink2, o.alpha ?? 1);
  g.fillText(s, x, y);
}

/** Longest beginning of `s` with an ellipsis that fits w pixels in the context's font; "" where none does. */
export function clip(g, s, w) {
  if (g.measureText(s).width <= w) return s;
  let lo = 0;
  let hi = s.length;
  while (lo < hi) {
    const mid = (lo + hi + 1) >> 1;
    if (g.measureText(`${s.slice(0, mid).trimEnd()}\u2026`).width <= w) lo = mid;
    else hi = mid - 1;
  }
  return lo > 1 ? `${s.slice(0, lo).trimEnd()}\u2026` : "";
}

/** The selection's line: ink with a halo of ground on both sides. @param {(g: CanvasRenderingContext2D) => void} path */
export function ring(g, theme, path, width = 2, halo = 2.5) {
  g.setLineDash([]);
  g.lineJoin = "round";
  const passes = halo ? [[theme.ground, width + halo], [theme.ink, width]] : [[theme.ink, width]];
  for (const [colour, lineWidth] of passes) {
    g.strokeStyle = css(colour);
    g.lineWidth = lineWidth;
    g.beginPath();
    path(g);
    g.stroke();
  }
}

/** Vertical grid lines at the axis' ticks. */
export function grid(g, w, h, theme, axis) {
  g.fillStyle = css(theme.line, 0.8);
  for (const tick of axis.ticks()) g.fillRect(Math.round(tick.x), 0, 1, h);
}

/** Draws packed device pixels at (0, 0), within the clip. @param {Uint32Array} pixels */
export function putPixels(g, pixels, W, H, scratch) {
  if (scratch.width !== W || scratch.height !== H) {
    scratch.width = W;
    scratch.height = H;
  }
  const image = new ImageData(new Uint8ClampedArray(pixels.buffer, pixels.byteOffset, W * H * 4), W, H);
  scratch.getContext("2d").putImageData(image, 0, 0);
  g.save();
  g.setTransform(1, 0, 0, 1, 0, 0);
  g.imageSmoothingEnabled = false;
  g.drawImage(scratch, 0, 0);
  g.restore();
}
