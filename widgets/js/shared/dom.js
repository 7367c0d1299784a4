/** Elements in one line. */

/**
 * @param {string} spec "button.wb-btn.icon"
 * @param {Record<string, any>} [props] properties; `aria-*`, `data-*`, `role` and `tabindex` become attributes
 * @param {(Node | string)[]} [children]
 */
export function h(spec, props = {}, children = []) {
  const [tag, ...classes] = spec.split(".");
  const el = document.createElement(tag || "div");
  if (classes.length) el.className = classes.join(" ");
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (/^(aria-|data-|role$|tabindex$|style$)/.test(key)) el.setAttribute(key, value);
    else el[key] = value;
  }
  el.append(...children);
  return el;
}

const ICONS = {
  first: "M3 2.5h1.6v9H3zM11 2.5v9L5.2 7z",
  back: "M9.5 2.5v9L3.8 7z",
  play: "M4 2.2 11.5 7 4 11.8z",
  pause: "M3.8 2.5h2.3v9H3.8zM7.9 2.5h2.3v9H7.9z",
  on: "M4.5 2.5v9L10.2 7z",
  last: "M9.4 2.5H11v9H9.4zM3 2.5v9L8.8 7z",
};

/** @param {keyof typeof ICONS} name */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 14 14");
  svg.setAttribute("width", "13");
  svg.setAttribute("height", "13");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  path.setAttribute("fill", "currentColor");
  svg.append(path);
  return svg;
}
