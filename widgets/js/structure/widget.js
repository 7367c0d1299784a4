/** The structure editor on an anywidget-like model: traits `value`, `report`, `tools` and `theme`. */
import { Editor } from "./editor.js";

function render({ model, el }) {
  const stop = new AbortController();
  const view = new Editor(el, (value) => {
    model.set("value", value);
    model.save_changes();
  }, stop.signal);
  const on = (name, f) => {
    model.on(name, f);
    stop.signal.addEventListener("abort", () => model.off(name, f), { once: true });
  };
  const pull = () => {
    view.tools = model.get("tools") ?? [];
    view.show(model.get("value"));
  };
  const told = () => view.told(model.get("report"));
  const theme = () => {
    if (model.get("theme")) view.root.dataset.wbTheme = model.get("theme");
    else delete view.root.dataset.wbTheme;
  };
  on("change:value", pull);
  on("change:tools", () => {
    pull();
    view.draw();
  });
  on("change:report", told);
  on("change:theme", theme);
  on("comm_live_update", () => {
    if (model.comm_live === false) view.told({ ...view.report, why: "", here: false });
  });
  theme();
  pull();
  told();
  return () => {
    stop.abort();
    view.root.remove();
  };
}

export default { render };
