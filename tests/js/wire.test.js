import assert from "node:assert/strict";
import { gzipSync } from "node:zlib";
import test from "node:test";
import { Tables, WireError, aligned, readFrame, unpackFrame } from "../../widgets/js/shared/wire.js";

/** Lays columns out as widgets/wire.py does; written from its docstring, not from the decoder. */
function message(kind, seq, from, tables, columns) {
  const parts = [];
  let size = 0;
  const add = (array) => {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    const at = size;
    parts.push([at, bytes]);
    size += bytes.length + ((8 - (bytes.length % 8)) % 8);
    return at;
  };
  const entries = columns.map(({ values, rows, ...entry }) => {
    if (rows) entry.rows = add(Uint32Array.from(rows));
    entry.count = values.length;
    if (entry.dtype !== "str") return { ...entry, at: add(values) };
    const texts = values.map((s) => new TextEncoder().encode(s));
    const offsets = Uint32Array.from([0, ...texts.map((_, i) => texts.slice(0, i + 1).reduce((n, t) => n + t.length, 0))]);
    const joined = Uint8Array.from(texts.flatMap((t) => [...t]));
    return { ...entry, at: add(offsets), text: add(joined), length: joined.length };
  });
  const payload = new Uint8Array(size);
  for (const [at, bytes] of parts) payload.set(bytes, at);
  return { header: { wire: 1, kind, seq, from, meta: { model: "m" }, tables, bytes: size, columns: entries }, payload };
}

const SNAPSHOT = message("snapshot", 3, null, { steps: 3, nodes: 2 }, [
  { table: "steps", column: "t", dtype: "f8", start: 0, values: Float64Array.of(0, 0.5, 1) },
  { table: "steps", column: "phase", dtype: "u1", start: 0, values: Uint8Array.of(0, 1, 1) },
  { table: "nodes", column: "title", dtype: "str", start: 0, values: ["Über", "b"] },
]);
const DELTA = message("delta", 5, 3, { steps: 4, nodes: 3 }, [
  { table: "steps", column: "t", dtype: "f8", start: 3, values: Float64Array.of(1.5) },
  { table: "steps", column: "phase", dtype: "u1", start: 3, values: Uint8Array.of(2) },
  { table: "nodes", column: "title", dtype: "str", start: 2, values: ["c"] },
  { table: "nodes", column: "title", dtype: "str", rows: [1], values: ["B, renamed"] },
  { table: "steps", column: "phase", dtype: "u1", rows: [0], values: Uint8Array.of(4) },
]);

for (const offset of [0, 4, 2]) {
  test(`a snapshot and a delta are read at byte offset ${offset} of their buffer`, () => {
    const at = (payload) => {
      const whole = new Uint8Array(payload.length + offset);
      whole.set(payload, offset);
      return new DataView(whole.buffer, offset);
    };
    const tables = new Tables();
    tables.apply(SNAPSHOT.header, at(SNAPSHOT.payload));
    tables.apply(DELTA.header, at(DELTA.payload));
    assert.equal(tables.seq, 5);
    assert.equal(tables.steps.n, 4);
    assert.deepEqual([...tables.steps.t.slice(0, 4)], [0, 0.5, 1, 1.5]);
    assert.deepEqual([...tables.steps.phase.slice(0, 4)], [4, 1, 1, 2]);
    assert.deepEqual([0, 1, 2].map((i) => tables.nodes.title.get(i)), ["Über", "B, renamed", "c"]);
    assert.equal(aligned(at(SNAPSHOT.payload)).start % 8, 0);
  });
}

test("a delta from another state is thrown away and changes nothing", () => {
  const tables = new Tables();
  tables.apply(SNAPSHOT.header, SNAPSHOT.payload);
  const late = { ...DELTA.header, from: 4 };
  assert.throws(() => tables.apply(late, DELTA.payload), WireError);
  assert.equal(tables.seq, 3);
  assert.equal(tables.steps.n, 3);
});

test("columns that do not fit are named", () => {
  const tables = new Tables();
  tables.apply(SNAPSHOT.header, SNAPSHOT.payload);
  const wrong = structuredClone(DELTA.header);
  wrong.tables.steps = 9;
  assert.throws(() => tables.apply(wrong, DELTA.payload), /column t has 4 rows, steps has 9/);
  assert.throws(() => tables.apply({ ...DELTA.header, wire: 2 }, DELTA.payload), /version 2/);
  assert.throws(() => tables.apply(DELTA.header, DELTA.payload.slice(0, 8)), /8 bytes/);
});

test("a snapshot starts over", () => {
  const tables = new Tables();
  tables.apply(SNAPSHOT.header, SNAPSHOT.payload);
  tables.apply(DELTA.header, DELTA.payload);
  tables.apply({ ...SNAPSHOT.header, seq: 9 }, SNAPSHOT.payload);
  assert.equal(tables.steps.n, 3);
  assert.equal(tables.nodes.title.get(1), "b");
});

test("a frame goes through base64 and gzip", async () => {
  const text = JSON.stringify(SNAPSHOT.header);
  const padded = text + " ".repeat((8 - ((8 + text.length) % 8)) % 8);
  const head = new TextEncoder().encode(padded);
  const frame = Buffer.concat([Buffer.from("WBW1"), Buffer.from(Uint32Array.of(head.length).buffer), head, SNAPSHOT.payload]);
  const { header, payload } = await unpackFrame(gzipSync(frame).toString("base64"));
  const tables = new Tables();
  tables.apply(header, payload);
  assert.equal(tables.nodes.title.get(0), "Über");
  assert.throws(() => readFrame(Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8)), WireError);
});
