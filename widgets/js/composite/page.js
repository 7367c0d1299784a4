/** A static page: the tables lie in the page, no engine is behind it. */
import { unpackFrame } from "../shared/wire.js";
import { View } from "./view.js";

const WHY = "no engine behind this page";

async function open() {
  const place = document.querySelector("[data-wb-view]");
  const data = document.querySelector("script[data-wb-frame]");
  const options = JSON.parse(place.dataset.wbView || "{}");
  const view = new View(place, { ...options, engine: { here: false, why: WHY, send: async () => ({ ok: false, why: WHY }) } }, new AbortController().signal);
  try {
    const { header, payload } = await unpackFrame(data.textContent.trim());
    view.tables.apply(header, payload);
    view.tables.meta.live = false; // whatever it was when the page was made, nothing more comes
    view.dataChanged();
  } catch (error) {
    view.say({ kind: "bad", words: `The data of this page cannot be read: ${error.message}` });
  }
  place.dataset.wbReady = String(Math.round(performance.now()));
  globalThis.reasoningWorkbench = { view };
}

open();
