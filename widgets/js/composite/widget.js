/** The composite as an anywidget module; a lane alone is the same view with one lane. */
import { connect } from "../shared/host.js";
import { View } from "./view.js";

function render({ model, el }) {
  const stop = new AbortController();
  const engine = { here: false, why: "no engine behind this view", send: () => {} };
  const options = { lanes: model.get("lanes"), density: model.get("density"), title: model.get("title") ?? "", engine };
  const view = new View(el, options, stop.signal);
  connect(view, model, stop.signal);
  return () => {
    stop.abort();
    view.el.root.remove();
  };
}

export default { render };
