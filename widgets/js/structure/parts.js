/**
 * What a list of tasks may hold, as a value: a type's name, {sequence}, {choice} or {list, least, most}.
 * Pure: every edit gives a new value. A path is the places of children from the list's root down.
 */

/** @typedef {string | {sequence: Part[]} | {choice: Part[]} | {list: Part, least: number, most: number | null}} Part */
/** @typedef {{name: string, about: string, tools: string[], must_call: boolean, subtasks: Part | null}} TaskType */
/** @typedef {{types: TaskType[], reasoning: Part, answer: any}} Structure */

/** @param {Part} part @returns {"task" | "sequence" | "choice" | "list"} */
export function kindOf(part) {
  if (typeof part === "string") return "task";
  return "sequence" in part ? "sequence" : "choice" in part ? "choice" : "list";
}

/** @param {Part} part @returns {Part[]} */
export function childrenOf(part) {
  const kind = kindOf(part);
  return kind === "task" ? [] : kind === "list" ? [part.list] : part[kind];
}

/** As a reader is told: a list of none or one is "optional". @param {Part} part */
export function formOf(part) {
  const kind = kindOf(part);
  return kind === "list" && part.least === 0 && part.most === 1 ? "optional" : kind;
}

/** The same part over other children; without any, nothing. @param {Part} part @param {Part[]} children @returns {Part | null} */
export function withChildren(part, children) {
  if (!children.length) return null;
  const kind = kindOf(part);
  if (kind === "list") return { ...part, list: children.length > 1 ? { sequence: children } : children[0] };
  return { [kind]: children };
}

/** @param {Part} part @param {number[]} path @returns {Part} */
export const at = (part, path) => path.reduce((p, i) => childrenOf(p)[i], part);

/** The part with `edit` done to the children of the one at `path`. @returns {Part | null} */
function within(part, path, edit) {
  const children = [...childrenOf(part)];
  if (!path.length) return withChildren(part, edit(children));
  const [first, ...rest] = path;
  const inner = within(children[first], rest, edit);
  children.splice(first, 1, ...(inner === null ? [] : [inner]));
  return withChildren(part, children);
}

/** @param {Part} part @param {number[]} path @param {Part} value @returns {Part} */
export function put(part, path, value) {
  if (!path.length) return value;
  const last = path[path.length - 1];
  return within(part, path.slice(0, -1), (c) => c.with(last, value));
}

/** What held only this goes too; null where nothing is left. @param {Part} part @param {number[]} path @returns {Part | null} */
export function remove(part, path) {
  if (!path.length) return null;
  return within(part, path.slice(0, -1), (c) => c.toSpliced(path[path.length - 1], 1));
}

/** `value` behind the part at `path`; where that is no member of a sequence or choice, both become a sequence.
 * @param {Part} part @param {number[]} path @param {Part} value @returns {[Part, number[]]} with the place of `value` */
export function addAfter(part, path, value) {
  const above = path.slice(0, -1);
  if (path.length && kindOf(at(part, above)) !== "list") {
    const place = path[path.length - 1] + 1;
    return [within(part, above, (c) => c.toSpliced(place, 0, value)), [...above, place]];
  }
  return [put(part, path, { sequence: [at(part, path), value] }), [...path, 1]];
}

/** @param {Part} part @param {number[]} path @param {Part} value @returns {[Part, number[]]} */
export function addInside(part, path, value) {
  const n = childrenOf(at(part, path)).length;
  return [within(part, path, (c) => [...c, value]), kindOf(at(part, path)) === "list" ? [...path, 0, n] : [...path, n]];
}

/** One place up (-1) or down (1) among its siblings; the same part where there is no such place.
 * @param {Part} part @param {number[]} path @param {-1 | 1} by @returns {[Part, number[]]} */
export function move(part, path, by) {
  if (!path.length) return [part, path];
  const above = path.slice(0, -1);
  const from = path[path.length - 1];
  const to = from + by;
  if (to < 0 || to >= childrenOf(at(part, above)).length) return [part, path];
  const moved = within(part, above, (c) => c.toSpliced(from, 1).toSpliced(to, 0, c[from]));
  return [moved, [...above, to]];
}

const COUNTS = { list: { least: 1, most: null }, optional: { least: 0, most: 1 } };

/** @param {Part} part @param {"sequence" | "choice" | "list" | "optional"} form @returns {Part} */
export const wrapped = (part, form) => (form in COUNTS ? { list: part, ...COUNTS[form] } : { [form]: [part] });

/** The part in another form, its children kept. @param {Part} part @param {string} form @returns {Part} */
export function turned(part, form) {
  if (formOf(part) === form) return part;
  if (form in COUNTS && kindOf(part) === "list") return { ...part, ...COUNTS[form] };
  if (form in COUNTS || kindOf(part) === "task") return wrapped(part, form);
  return { [form]: childrenOf(part) };
}

/** Every part with its place, from the top down. @param {Part} part @returns {{path: number[], part: Part, place: number, of: number}[]} */
export function rows(part, path = [], place = 0, of = 1) {
  const below = childrenOf(part);
  return [{ path, part, place, of }, ...below.flatMap((p, i) => rows(p, [...path, i], i, below.length))];
}

/** Names that are used anywhere. @param {Part} part @returns {string[]} */
export const named = (part) => rows(part).filter((r) => typeof r.part === "string").map((r) => r.part);

/** @param {Part} part @param {string} from @param {string} to @returns {Part} */
export function renamed(part, from, to) {
  if (typeof part === "string") return part === from ? to : part;
  return withChildren(part, childrenOf(part).map((p) => renamed(p, from, to)));
}

/** A type under another name, wherever it is used. @param {Structure} s @param {number} i @param {string} name @returns {Structure} */
export function renameType(s, i, name) {
  const from = s.types[i].name;
  const types = s.types.map((t, j) => ({
    ...t, name: i === j ? name : t.name, subtasks: t.subtasks === null ? null : renamed(t.subtasks, from, name),
  }));
  return { ...s, types, reasoning: renamed(s.reasoning, from, name) };
}

/** A name that no type has yet. @param {Structure} s */
export function freshName(s) {
  for (let n = 1; ; n++) if (!s.types.some((t) => t.name === `task${n}`)) return `task${n}`;
}

/** In words, for readers of the screen. @param {Part} part @returns {string} */
export function words(part) {
  switch (kindOf(part)) {
    case "task": return part;
    case "sequence": return part.sequence.map(words).join(", then ");
    case "choice": return `(${part.choice.map(words).join(" or ")})`;
    default: return `${counts(part)} ${words(part.list)}`;
  }
}

/** @param {{least: number, most: number | null}} part */
export function counts({ least, most }) {
  if (most === null || most === undefined) return `${least} or more`;
  return least === 0 && most === 1 ? "optionally" : least === most ? String(least) : `${least} to ${most}`;
}
