"""Tables on the wire: one JSON header and one binary payload a message, snapshot or delta.

The format (version 1). A *message* is a JSON object, the header, and one buffer, the payload. Over a comm
the header is the message content and the payload is `buffers[0]`; in a static page both lie in one *frame*,
gzip'd and base64'd. Everything is little-endian. Header::

    {"wire": 1,
     "kind": "snapshot" | "delta",
     "seq": 17,                  # state of the tables after this message; grows, with gaps
     "from": 12 | null,          # delta: the seq that it applies to; null for a snapshot
     "meta": {"model": ..., ...},            # all of tables.META, whole in every message
     "tables": {"steps": 812, ...},          # rows of every table after this message
     "bytes": 45312,                         # length of the payload
     "columns": [
       {"table": "tokens", "column": "born", "dtype": "u4",
        "start": 9000, "count": 30,          # rows [start, start + count) of the column
        "at": 128},                          # byte offset of the values in the payload
       {"table": "nodes", "column": "title", "dtype": "str",
        "start": 40, "count": 2,
        "at": 256, "text": 272, "length": 31},
       {"table": "tokens", "column": "died", "dtype": "u4",
        "rows": 320, "count": 5,             # a patch: u4 [count] row numbers at byte 320 …
        "at": 344}                           # … and their new values, in the same order
     ]}

- `dtype` is u1 u2 u4 i4 f4 f8, or "str" / "bytes". `at`, `rows` and `text` are multiples of 8 within the
  payload. The payload may itself start at any offset of its ArrayBuffer (a DataView has a byteOffset):
  copy it when that offset is not a multiple of 8, then take typed arrays over it.
- "str" and "bytes": u4 [count + 1] offsets at `at`, beginning with 0, into the `length` bytes at `text`.
  Row i of the entry is bytes [offsets[i], offsets[i + 1]). "str" is valid UTF-8, "bytes" need not be (the
  bytes of one token may be a part of a character: join tokens before decoding).
- An entry with `start` appends: `start` is the column's length so far (0 in a snapshot). An entry with
  `rows` patches cells that exist already. Apply all appends of a message, then its patches. A column
  without an entry did not change; a snapshot has an append for every column, empty ones (count 0) too.
- A view keeps `seq` of the last message that it applied. A delta whose `from` is another number is thrown
  away and answered with ``{"kind": "resync", "why": "..."}``; the next message is then a snapshot. Each
  applied message is answered with ``{"kind": "ack", "seq": 17}``. While two messages are unanswered the
  sender holds back and joins what comes into one later delta; after two silent seconds it sends a snapshot.
- A frame is the bytes ``WBW1``, u4 length of the header text, the header as UTF-8 JSON padded with spaces so
  that the payload begins at a multiple of 8, then the payload. In a page it is base64 of gzip of that.
"""
