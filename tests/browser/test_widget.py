"""The widget module on a model of plain JavaScript: messages, answers, nothing left behind."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from widgets.base import asset
from widgets.wire import encode
from workbench.trace.columns import Tables

pytestmark = pytest.mark.browser

SETUP = """
(async ([source, css, header, payload]) => {
  const count = (globalThis.alive = { listeners: 0, observers: 0 });
  for (const target of [EventTarget.prototype]) {
    const add = target.addEventListener;
    target.addEventListener = function (type, f, options) {
      const outside = this === globalThis || this === document || this instanceof MediaQueryList;
      if (outside) {
        count.listeners++;
        options?.signal?.addEventListener("abort", () => count.listeners--, { once: true });
      }
      return add.call(this, type, f, options);
    };
  }
  for (const name of ["ResizeObserver", "MutationObserver"]) {
    const Real = globalThis[name];
    globalThis[name] = class extends Real {
      observe(...args) {
        if (!this.on) count.observers++;
        this.on = true;
        return super.observe(...args);
      }
      disconnect() {
        if (this.on) count.observers--;
        this.on = false;
        return super.disconnect();
      }
    };
  }
  class Model {
    constructor() {
      const engine = { here: true, why: "" };
      this.state = { at: null, picks: {}, axis: "tokens", theme: null, lanes: [], engine };
      this.listeners = new Map();
      this.sent = [];
      this.saved = 0;
    }
    get(name) { return this.state[name]; }
    set(name, value) { this.state[name] = value; this.tell(`change:${name}`); }
    save_changes() { this.saved++; }
    on(name, f) { this.listeners.set(name, [...(this.listeners.get(name) ?? []), f]); }
    off(name, f) { this.listeners.set(name, this.listeners.get(name).filter((g) => g !== f)); }
    tell(name, ...args) { for (const f of this.listeners.get(name) ?? []) f(...args); }
    send(content) { this.sent.push(content); }
    get listening() { return [...this.listeners.values()].reduce((n, l) => n + l.length, 0); }
  }
  const style = document.createElement("style");
  style.textContent = css;
  document.head.append(style);
  const module = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  const bytes = Uint8Array.from(atob(payload), (c) => c.charCodeAt(0));
  const shifted = new Uint8Array(bytes.length + 2);
  shifted.set(bytes, 2);
  globalThis.model = new Model();
  globalThis.data = () => model.tell("msg:custom", header, [new DataView(shifted.buffer, 2)]);
  globalThis.open = () => {
    const el = document.createElement("div");
    document.body.append(el);
    const close = module.default.render({ model, el });
    return () => { close(); el.remove(); };
  };
})
"""


both = pytest.mark.parametrize("page", ["composite", "outline"], indirect=True)


@pytest.fixture
def page(request: pytest.FixtureRequest, chromium: Any, tables: Tables) -> Iterator[Any]:
    page = chromium.new_page(viewport={"width": 1000, "height": 800})
    page.set_content("<!doctype html><body style='margin:0'></body>")
    message = encode(tables.delta(None))
    payload = base64.b64encode(message.payload).decode()
    header = json.loads(json.dumps(message.header))
    name = getattr(request, "param", "composite")
    page.evaluate(SETUP, [asset(f"{name}.js"), asset("style.css"), header, payload])
    yield page
    page.close()


def settle(page: Any) -> None:
    page.evaluate(
        "() => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))"
    )


@both
def test_two_views_open_and_close_and_leave_nothing(page: Any) -> None:
    before = page.evaluate("({ ...alive, model: model.listening })")
    page.evaluate("() => { globalThis.first = open(); globalThis.second = open(); data(); }")
    settle(page)
    one = page.evaluate("alive.listeners + alive.observers + model.listening")
    assert one > 8
    assert page.evaluate("document.querySelectorAll('.wb').length") == 2
    page.evaluate("first()")
    settle(page)
    assert page.evaluate("document.querySelectorAll('.wb').length") == 1
    page.evaluate("second()")
    settle(page)
    assert page.evaluate("({ ...alive, model: model.listening })") == before
    assert page.evaluate("document.body.children.length") == 0


@both
def test_a_view_asks_acknowledges_and_asks_again(page: Any) -> None:
    page.evaluate("() => { globalThis.close = open(); }")
    assert page.evaluate("model.sent")[0]["kind"] == "resync"
    page.evaluate("data()")
    seq = page.evaluate("model.sent.at(-1)")
    assert seq["kind"] == "ack"
    late = {
        "wire": 1,
        "kind": "delta",
        "seq": 99,
        "from": 98,
        "tables": {},
        "columns": [],
        "bytes": 0,
    }
    page.evaluate("(m) => model.tell('msg:custom', m, [])", late)
    again = page.evaluate("model.sent.at(-1)")
    assert again["kind"] == "resync"
    assert "98" in again["why"]


def test_gestures_are_sent_answered_and_refused(page: Any) -> None:
    page.evaluate("() => { globalThis.close = open(); data(); }")
    settle(page)
    page.focus(".wb-over")
    page.keyboard.press("i")
    sent = page.evaluate("model.sent.at(-1)")
    assert (sent["kind"], sent["verb"]) == ("gesture", "pin")
    page.wait_for_timeout(400)
    assert "has not answered yet" in page.inner_text(".wb-banner"), "late after 300 ms"
    page.evaluate("(id) => model.tell('msg:custom', { kind: 'answer', id, ok: true })", sent["id"])
    settle(page)
    assert not page.is_visible(".wb-banner")
    page.keyboard.press("i")
    sent = page.evaluate("model.sent.at(-1)")
    refusal = {"kind": "answer", "id": sent["id"], "ok": False, "why": "it has gone"}
    page.evaluate("(m) => model.tell('msg:custom', m)", refusal)
    settle(page)
    assert "it has gone" in page.inner_text(".wb-banner")


def test_traits_go_both_ways(page: Any) -> None:
    page.evaluate("() => { globalThis.close = open(); data(); }")
    settle(page)
    page.evaluate("model.set('at', 500)")
    settle(page)
    assert "step 500" in page.inner_text(".wb-step").replace("\u2009", "")
    page.focus(".wb-over")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("model.get('at')") == 501
    page.keyboard.press("u")
    assert page.evaluate("model.get('axis')") == "steps"
    page.evaluate("model.set('theme', 'dark')")
    settle(page)
    assert page.evaluate("getComputedStyle(document.querySelector('.wb')).colorScheme") == "dark"


def test_prune_previews_before_it_acts(page: Any, tables: Tables) -> None:
    page.evaluate("() => { globalThis.close = open(); data(); }")
    settle(page)
    page.focus(".wb-over")
    page.keyboard.press("p")
    settle(page)
    sent = [m["verb"] for m in page.evaluate("model.sent") if m["kind"] == "gesture"]
    effect = page.inner_text(".wb-say")
    assert sent == [] if "would free" in effect else sent == ["prune"]


def test_a_view_made_outside_the_document_wears_the_theme_it_comes_into(page: Any) -> None:
    page.evaluate(
        """() => {
          document.body.dataset.jpThemeLight = "true";
          const style = document.createElement("style");
          style.textContent = ":root { --jp-layout-color1: #fff }";
          document.head.append(style);
          const append = document.body.append;
          document.body.append = (el) => setTimeout(() => append.call(document.body, el), 60);
          globalThis.close = open();
        }"""
    )
    page.wait_for_timeout(250)
    page.evaluate("data()")
    settle(page)
    ink = """() => {
      const c = document.querySelector(".wb-lane.ruler canvas");
      const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
      return [0, 1, 2, 3].map((i) => d[4 * ((c.height - 1) * c.width + 3) + i]);
    }"""
    light = page.evaluate(ink)
    assert light == [228, 231, 236, 255], "the line's colour in light"
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    settle(page)
    page.wait_for_timeout(60)
    assert page.evaluate(ink) == [40, 45, 54, 255], "and in dark"


def test_a_kernel_that_goes_leaves_the_picture(page: Any) -> None:
    page.evaluate("() => { globalThis.close = open(); data(); }")
    settle(page)
    page.evaluate("model.tell('comm_live_update')")
    settle(page)
    assert "Kernel gone" in page.inner_text(".wb-state")
    assert "The kernel stopped" in page.inner_text(".wb-banner")
    assert page.is_disabled("[data-act=pin]")
    page.focus(".wb-over")
    page.keyboard.press("Home")
    settle(page)
    assert page.get_attribute(".wb-over", "aria-valuenow") == "0", "scrubbing goes on"


def test_before_the_first_message_it_says_that_it_waits(page: Any) -> None:
    page.evaluate("() => { globalThis.close = open(); }")
    settle(page)
    assert "Waiting for the first frame" in page.inner_text(".wb-empty")
