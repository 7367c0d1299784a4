import assert from "node:assert/strict";
import test from "node:test";
import {
  addAfter, addInside, at, childrenOf, formOf, freshName, kindOf, move, named, put, remove, renameType, rows, turned, words, wrapped,
} from "../../widgets/js/structure/parts.js";

const list = (part, least = 1, most = null) => ({ list: part, least, most });
const PART = { sequence: [list("a", 1, 3), list({ choice: ["b", "c"] }), list("d", 0, 1)] };

test("every part is a row, from the top down", () => {
  const found = rows(PART);
  assert.deepEqual(found.map((r) => r.path.join(".")), ["", "0", "0.0", "1", "1.0", "1.0.0", "1.0.1", "2", "2.0"]);
  assert.deepEqual(found.map((r) => formOf(r.part)), ["sequence", "list", "task", "list", "choice", "task", "task", "optional", "task"]);
  for (const row of found) assert.deepEqual(at(PART, row.path), row.part);
  assert.deepEqual(found.filter((r) => r.path.length === 1).map((r) => [r.place, r.of]), [[0, 3], [1, 3], [2, 3]]);
});

test("edits leave the old value as it was", () => {
  const before = JSON.stringify(PART);
  assert.deepEqual(put(PART, [1, 0, 1], "x").sequence[1], list({ choice: ["b", "x"] }));
  assert.deepEqual(remove(PART, [1, 0, 0]).sequence[1], list({ choice: ["c"] }));
  assert.equal(JSON.stringify(PART), before);
});

test("what held only the removed goes too", () => {
  assert.deepEqual(remove(PART, [0, 0]).sequence.length, 2);
  assert.equal(remove(list({ choice: ["a"] }), [0, 0]), null);
  assert.equal(remove(PART, []), null);
});

test("a row is added behind another, and inside", () => {
  assert.deepEqual(addAfter({ choice: ["a", "b"] }, [0], "x"), [{ choice: ["a", "x", "b"] }, [1]]);
  assert.deepEqual(addAfter("a", [], "x"), [{ sequence: ["a", "x"] }, [1]]);
  const [inList, path] = addAfter(list("a"), [0], "x");
  assert.deepEqual([inList, at(inList, path)], [list({ sequence: ["a", "x"] }), "x"]);
  const [grown, where] = addInside(PART, [1], "x");
  assert.equal(at(grown, where), "x");
  const [more, there] = addInside(PART, [1, 0], "x");
  assert.deepEqual([at(more, there), childrenOf(at(more, [1, 0]))], ["x", ["b", "c", "x"]]);
});

test("a row moves among its siblings and no farther", () => {
  const [moved, path] = move(PART, [0], 1);
  assert.deepEqual([moved.sequence[1], path], [list("a", 1, 3), [1]]);
  assert.deepEqual(move(PART, [0], -1), [PART, [0]]);
  assert.deepEqual(move(PART, [], 1), [PART, []]);
});

test("forms turn into each other", () => {
  assert.deepEqual(turned("a", "list"), list("a"));
  assert.deepEqual(turned(list("a", 2, 5), "optional"), list("a", 0, 1));
  assert.deepEqual(turned(list("a", 0, 1), "list"), list("a"));
  assert.deepEqual(turned({ sequence: ["a", "b"] }, "choice"), { choice: ["a", "b"] });
  assert.deepEqual(turned({ sequence: ["a", "b"] }, "list"), list({ sequence: ["a", "b"] }));
  assert.deepEqual(turned(list({ choice: ["a"] }), "sequence"), { sequence: [{ choice: ["a"] }] });
  for (const form of ["sequence", "choice", "list", "optional"]) assert.equal(formOf(wrapped(PART, form)), form);
});

test("a type keeps its uses when it is renamed", () => {
  const type = (name, subtasks = null) => ({ name, about: "", tools: [], must_call: false, subtasks });
  const s = { types: [type("a", list("a", 0)), type("b", { choice: ["a", "b"] })], reasoning: list("a"), answer: null };
  const after = renameType(s, 0, "z");
  assert.deepEqual([named(after.reasoning), named(after.types[0].subtasks), named(after.types[1].subtasks)], [["z"], ["z"], ["z", "b"]]);
  assert.equal(freshName({ types: [type("task1")] }), "task2");
  assert.equal(kindOf(after.reasoning), "list");
});

test("in words", () => {
  assert.equal(words(PART), "1 to 3 a, then 1 or more (b or c), then optionally d");
});
