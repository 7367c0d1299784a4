/**
 * Tables as `widgets/wire.py` sends them: snapshots and deltas of columns, applied here and nowhere else.
 * A table is an object {n, <column>: typed array or Strings}; a column may be longer than `n`.
 */

const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i4: Int32Array, f4: Float32Array, f8: Float64Array };

/** @type {number} u4 "never", as in workbench.trace.tables */
export const NEVER = 0xffffffff;

/** Texts of one column: bytes end to end, decoded on demand. */
export class Strings {
  constructor() {
    this.offsets = new Uint32Array([0]);
    this.bytes = new Uint8Array(0);
    this.n = 0;
    /** @type {Map<number, Uint8Array>} rows whose text was replaced by a patch */
    this.changed = new Map();
    this.decoder = new TextDecoder("utf-8");
  }

  /** @param {number} row @returns {Uint8Array} */
  raw(row) {
    return this.changed.get(row) ?? this.bytes.subarray(this.offsets[row], this.offsets[row + 1]);
  }

  /** @param {number} row @returns {string} */
  get(row) {
    return this.decoder.decode(this.raw(row));
  }

  append(offsets, bytes) {
    const count = offsets.length - 1;
    const base = this.offsets[this.n];
    this.offsets = grown(this.offsets, this.n + 1, count);
    for (let i = 1; i <= count; i++) this.offsets[this.n + i] = base + offsets[i];
    this.bytes = grown(this.bytes, base, bytes.length);
    this.bytes.set(bytes, base);
    this.n += count;
  }

  patch(rows, offsets, bytes) {
    rows.forEach((row, i) => this.changed.set(row, bytes.slice(offsets[i], offsets[i + 1])));
  }
}

/** Room for `more` entries after the first `n`, doubling. */
function grown(array, n, more) {
  if (n + more <= array.length) return array;
  const next = new array.constructor(Math.max(n + more, array.length * 2));
  next.set(array.subarray(0, n));
  return next;
}

/** A message that cannot be applied; the view asks for a snapshot. */
export class WireError extends Error {}

/**
 * Payload whose typed arrays can be taken at multiples of 8: an unaligned one is copied.
 * @param {DataView | ArrayBuffer | Uint8Array} payload
 */
export function aligned(payload) {
  if (payload instanceof ArrayBuffer) return { buffer: payload, start: 0, length: payload.byteLength };
  const { buffer, byteOffset, byteLength } = payload;
  if (byteOffset % 8 === 0) return { buffer, start: byteOffset, length: byteLength };
  return { buffer: buffer.slice(byteOffset, byteOffset + byteLength), start: 0, length: byteLength };
}

export class Tables {
  constructor() {
    this.seq = /** @type {number | null} */ (null);
    this.meta = {};
  }

  /** Applies a message; throws WireError and stays as it was when the message does not fit. */
  apply(header, payload) {
    if (header.wire !== 1) throw new WireError(`wire version ${header.wire}: this view reads 1`);
    if (header.kind === "delta" && header.from !== this.seq) {
      throw new WireError(`delta from ${header.from}, but this view stands at ${this.seq}`);
    }
    const body = aligned(payload);
    if (body.length < header.bytes) throw new WireError(`payload of ${body.length} bytes, ${header.bytes} announced`);
    this.check(header);
    if (header.kind === "snapshot") for (const name of Object.keys(header.tables)) this[name] = { n: 0 };
    for (const e of header.columns) if (e.start !== undefined) this.append(e, body);
    for (const e of header.columns) if (e.rows !== undefined) this.patch(e, body);
    for (const [name, n] of Object.entries(header.tables)) this[name].n = n;
    this.meta = header.meta;
    this.seq = header.seq;
  }

  check(header) {
    const fresh = header.kind === "snapshot";
    for (const e of header.columns) {
      const table = fresh ? { n: 0 } : this[e.table];
      const rows = header.tables[e.table];
      if (!table || rows === undefined) throw new WireError(`column ${e.column} of the unknown table ${e.table}`);
      if (e.start !== undefined && e.start + e.count !== rows) {
        throw new WireError(`column ${e.column} has ${e.start + e.count} rows, ${e.table} has ${rows}`);
      }
      if (e.start !== undefined && e.start !== table.n) {
        throw new WireError(`column ${e.column} goes on at ${e.start}, but ${e.table} has ${table.n} rows`);
      }
    }
  }

  append(e, body) {
    const table = this[e.table];
    if (e.dtype === "str" || e.dtype === "bytes") {
      const strings = (table[e.column] ??= new Strings());
      strings.append(values("u4", body, e.at, e.count + 1), values("u1", body, e.text, e.length));
      return;
    }
    const more = values(e.dtype, body, e.at, e.count);
    const column = grown(table[e.column] ?? new ARRAYS[e.dtype](0), e.start, e.count);
    column.set(more, e.start);
    table[e.column] = column;
  }

  patch(e, body) {
    const column = this[e.table][e.column];
    const rows = values("u4", body, e.rows, e.count);
    if (column instanceof Strings) {
      column.patch(rows, values("u4", body, e.at, e.count + 1), values("u1", body, e.text, e.length));
      return;
    }
    const cells = values(e.dtype, body, e.at, e.count);
    for (let i = 0; i < e.count; i++) column[rows[i]] = cells[i];
  }
}

function values(dtype, body, at, count) {
  const array = ARRAYS[dtype];
  if (!array) throw new WireError(`dtype ${dtype}: this view reads ${Object.keys(ARRAYS).join(" ")} str bytes`);
  if (at + count * array.BYTES_PER_ELEMENT > body.length) throw new WireError(`column at ${at} ends behind the payload`);
  return new array(body.buffer, body.start + at, count);
}

/** Header and payload of one frame (a message in a page or a file). @param {Uint8Array} bytes */
export function readFrame(bytes) {
  if (String.fromCharCode(...bytes.subarray(0, 4)) !== "WBW1") throw new WireError("not a frame: it does not begin with WBW1");
  const length = new DataView(bytes.buffer, bytes.byteOffset + 4, 4).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  return { header, payload: bytes.subarray(8 + length) };
}

/** A frame out of base64 of gzip. @param {string} text */
export async function unpackFrame(text) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return readFrame(new Uint8Array(await new Response(stream).arrayBuffer()));
}
