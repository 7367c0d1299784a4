/**
 * What a reader does in the browser: cursor, hover, selection, brush, view. Only finished gestures leave it.
 * One store may serve several views; each listens with its own abort signal.
 */
export class Store {
  /** @param {Record<string, unknown>} state */
  constructor(state) {
    this.state = { ...state };
    /** @type {Set<(changed: Set<string>) => void>} */
    this.listeners = new Set();
  }

  /** Sets what differs and tells the listeners which keys changed. @param {Record<string, unknown>} patch */
  set(patch) {
    const changed = new Set();
    for (const [key, value] of Object.entries(patch)) {
      if (same(this.state[key], value)) continue;
      this.state[key] = value;
      changed.add(key);
    }
    if (changed.size) for (const f of [...this.listeners]) f(changed);
    return changed.size > 0;
  }

  /** @param {(changed: Set<string>) => void} f @param {AbortSignal} signal */
  on(f, signal) {
    if (signal.aborted) return;
    this.listeners.add(f);
    signal.addEventListener("abort", () => this.listeners.delete(f), { once: true });
  }
}

function same(a, b) {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  return JSON.stringify(a) === JSON.stringify(b);
}
