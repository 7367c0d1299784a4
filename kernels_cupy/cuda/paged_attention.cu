// Softmax attention of a few query rows over many paged KV entries: decode, shared prefixes, attached
// segments. Reads each KV entry of an item once: 2 * D elements an entry and KV head.
//
// Work is a list of items. An item is a range of entries of one block table and the query tokens that
// read it, in tiles of TILE entries. There are G lanes of H blocks, a block a KV head, so that the heads of
// an entry, which lie side by side, are read at about the same time; lane c takes the tiles
// [c * T / G, (c + 1) * T / G) of all items: equal KV entries whatever the requests' lengths. An item that
// straddles lanes leaves partial results; the last block to arrive merges them in the order of entries.
//
// Within a tile each warp owns 16 entries and loads them for itself (cp.async, STAGES deep), so the main
// loop has no block barrier; loads run on over the borders of items, under the merges. Products are transposed: S^T = K Q^T and O^T = V^T P^T, entries or head_dim
// in the 16 rows of the tensor-core tile and query rows (tokens x heads of the group) in its 8 columns,
// so that few rows waste nothing.
//
// Long because loads, products and merges of one block share its ring, its cursor and its room: apart, each
// would need the others' state spelled out.
#ifndef ELEM  // 0 bfloat16, 1 float16; all set by kernels_cupy/paged_attention.py
#define ELEM 0
#endif
#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif
#ifndef ROWS  // query rows an item, a multiple of 8
#define ROWS 8
#endif
#ifndef WARPS
#define WARPS 4
#endif
#ifndef STAGES
#define STAGES 3
#endif
#ifndef RESIDENT  // blocks a multiprocessor
#define RESIDENT 2
#endif
#ifndef MIN_TILES  // a block takes at least so many
#define MIN_TILES 4
#endif
#include "common/paging.cuh"
#include "common/vector.cuh"
#include "common/warp.cuh"

#define TILE (16 * WARPS)
#define CHUNKS (HEAD_DIM / 8)  // of 16 bytes, a row
#define PITCH (HEAD_DIM + 8)   // elements; an odd number of 16-byte chunks keeps ldmatrix free of conflicts
#define KSTEPS (HEAD_DIM / 16)
#define COLUMNS (ROWS / 8)
#define STAGE (2 * 16 * PITCH)  // elements a warp and stage: 16 rows of K, 16 of V
#define SPAN (HEAD_DIM % 64 ? 32 : 64)       // of head_dim, that the warps of a block merge at a time
#define ROOM (WARPS * ROWS * (SPAN + 4))      // floats
#define PIECES (ROOM / ROWS - 2)              // results that a merge can hold
#define EACH ((PIECES + 31) / 32)             // of them, a lane
#ifndef EARLY  // results that a merge has under way in registers
#define EARLY 12
#endif
#define NEVER (-__int_as_float(0x7f800000))

struct Item { int table, lo, hi, row0, tokens, full_lo, full_hi, unused; };
struct Row { int token, first, limit, part, turn, tree, unused[2]; };  // tree: where its ancestors begin to count

// a * b / c, as 32 bits where the product fits
__device__ __forceinline__ int scaled(int a, int b, int c) {
    const u64 product = u64(u32(a)) * u32(b);
    return product >> 32 ? int(product / u32(c)) : int(u32(product) / u32(c));
}

struct Work {  // the same for all blocks
    const elem *q, *k, *v;
    elem* out;
    const int *tables, *prefix;
    int table_width;
    const Item* items;
    const Row* rows;
    const float* turns;    // [n, D / 2, 2] cos, sin by which a query is turned before it reads
    float *partial, *stats;  // of blocks: [2 G, ROWS, D] and [2 G, ROWS, 2]
    float *part, *part_lse;  // of rows that several items serve: [n, Q, D] and [n, Q]
    u32* counters;         // [items, H], 0 between launches
    Paging paging;
    int kv_heads, group;
    float scale_log2;
};

struct Warp {
    elem* stage;  // this warp's ring
    int lane, warp, head;
};

struct Cursor {  // a tile of the list, and the item that it is of
    int index, tile, tiles, lo, hi;
    const int* table;

    __device__ __forceinline__ void enter(const Work& w, int item) {
        index = item, tile = 0, tiles = __ldg(w.prefix + item + 1) - __ldg(w.prefix + item);
        lo = __ldg(&w.items[item].lo), hi = __ldg(&w.items[item].hi);
        table = w.tables + i64(__ldg(&w.items[item].table)) * w.table_width;
    }
    __device__ __forceinline__ void enter(const Work& w, int item, int tile, int tiles, int lo, int hi, int table) {
        index = item, this->tile = tile, this->tiles = tiles, this->lo = lo, this->hi = hi;
        this->table = w.tables + i64(table) * w.table_width;
    }
    __device__ __forceinline__ void advance(const Work& w) {  // only while there is a tile left
        if (++tile == tiles) {
            do enter(w, index + 1);
            while (tiles == 0);
        }
    }
    __device__ __forceinline__ int entry(const Warp& me) const {  // of the lane, and of lane + 16
        return lo + tile * TILE + me.warp * 16 + (me.lane & 15);
    }
    __device__ __forceinline__ int page(const Work& w, const Warp& me) const {
        return __ldg(table + w.paging.page(min(entry(me), hi - 1)));
    }
};

__device__ __forceinline__ void issue(const Work& w, const Warp& me, const Cursor& at, int page, int slot) {
    const int e = at.entry(me);
    const u32 mine = (w.paging.slot(page, min(e, at.hi - 1)) * w.kv_heads + me.head) * CHUNKS;  // in 16 bytes
    const int live = e < at.hi;
    elem* to = me.stage + slot * STAGE;
    const Vec16* k = reinterpret_cast<const Vec16*>(w.k);
    const Vec16* v = reinterpret_cast<const Vec16*>(w.v);
    u32 from[CHUNKS / 2];
#pragma unroll
    for (int j = 0; j < CHUNKS / 2; j++) {
        const int i = me.lane + 32 * j, row = i / CHUNKS, chunk = i % CHUNKS;
        from[j] = __shfl_sync(FULL, mine, row) + chunk;
        copy16_async(to + row * PITCH + chunk * 8, k + from[j], __shfl_sync(FULL, live, row));
    }
    copy_commit();
#pragma unroll
    for (int j = 0; j < CHUNKS / 2; j++) {
        const int i = me.lane + 32 * j, row = i / CHUNKS, chunk = i % CHUNKS;
        copy16_async(to + (16 + row) * PITCH + chunk * 8, v + from[j], __shfl_sync(FULL, live, row));
    }
    copy_commit();
}

struct Loader {  // runs STAGES - 1 tiles ahead of the products
    Cursor at;
    int left, page, slot;

    __device__ __forceinline__ void step(const Work& w, const Warp& me) {
        if (left > 0) {
            issue(w, me, at, page, slot);
            if (--left > 0) {
                at.advance(w);
                page = at.page(w, me);  // a step before it is needed
            }
        } else {
            copy_commit(), copy_commit();
        }
        slot = slot + 1 == STAGES ? 0 : slot + 1;
    }
};

// query rows as the B operand: lane holds row l/4 of each 8, elements 2(l%4), +1, +8, +9 of each 16
__device__ __forceinline__ void load_queries(const Work& w, const Item& item, int head, int lane,
                                             u32 (&q)[COLUMNS][KSTEPS][2]) {
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        const int r = 8 * c + lane / 4;
        const bool live = r < item.tokens * w.group;
        const Row* row = w.rows + item.row0 + (live ? r / w.group : 0);
        const elem* from =
            w.q + (i64(row->token) * (w.kv_heads * w.group) + head * w.group + r % w.group) * HEAD_DIM;
#pragma unroll
        for (int s = 0; s < KSTEPS; s++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                q[c][s][half] = live ? load_pair(from + 16 * s + 8 * half + 2 * (lane % 4)) : 0u;
        if (live && row->turn >= 0) {
#pragma unroll
            for (int s = 0; s < KSTEPS / 2; s++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    u32 &l = q[c][s][half], &h = q[c][s + KSTEPS / 2][half];
                    const float4 cs = *reinterpret_cast<const float4*>(
                        w.turns + (i64(row->turn) * (HEAD_DIM / 2) + 16 * s + 8 * half + 2 * (lane % 4)) * 2);
                    const float l0 = low_half(l), l1 = high_half(l), h0 = low_half(h), h1 = high_half(h);
                    l = pack_halves(l0 * cs.x - h0 * cs.y, l1 * cs.z - h1 * cs.w);
                    h = pack_halves(h0 * cs.x + l0 * cs.y, h1 * cs.z + l1 * cs.w);
                }
        }
    }
}

struct Softmax {  // of the lane's query rows 8c + 2(l%4) + {0, 1}, over the entries that its warp saw
    float o[COLUMNS][KSTEPS][4];  // O^T: head_dim 16n + l/4 (+8), rows as above
    float top[COLUMNS][2], sum[COLUMNS][2];
};

struct Bounds {  // what each row of an item reads
    int first[ROWS], limit[ROWS], tree[ROWS];
    u64 ancestors[ROWS];

    __device__ __forceinline__ bool reads(int row, int e) const {
        return e >= first[row] && e < limit[row] && (e < tree[row] || (ancestors[row] >> (e - tree[row] & 63) & 1));
    }
};

template <bool MASKED>
__device__ __forceinline__ void tile_step(const Work& w, const Warp& me, const u32 (&q)[COLUMNS][KSTEPS][2],
                                          Softmax& a, const elem* stage, int e0, const Bounds& b) {
    float s[COLUMNS][4] = {};
    const int m = me.lane / 8;
#pragma unroll
    for (int k = 0; k < KSTEPS; k++) {
        u32 keys[4];
        load_matrix4(keys, stage + ((m % 2) * 8 + me.lane % 8) * PITCH + k * 16 + (m / 2) * 8);
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) mma(s[c], keys, q[c][k][0], q[c][k][1]);
    }
    u32 p[COLUMNS][2];
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        float rescale[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float x0 = s[c][r] * w.scale_log2, x1 = s[c][2 + r] * w.scale_log2;
            if (MASKED) {
                const int row = 8 * c + 2 * (me.lane % 4) + r, e = e0 + me.lane / 4;
                if (!b.reads(row, e)) x0 = NEVER;
                if (!b.reads(row, e + 8)) x1 = NEVER;
            }
            float top = fmaxf(x0, x1);
            top = fmaxf(top, __shfl_xor_sync(FULL, top, 4));
            top = fmaxf(top, __shfl_xor_sync(FULL, top, 8));
            top = fmaxf(top, __shfl_xor_sync(FULL, top, 16));
            top = fmaxf(top, a.top[c][r]);
            const float base = MASKED && top == NEVER ? 0.f : top;
            rescale[r] = exp2_fast(a.top[c][r] - base);
            a.top[c][r] = top;
            s[c][r] = exp2_fast(x0 - base), s[c][2 + r] = exp2_fast(x1 - base);
            a.sum[c][r] = a.sum[c][r] * rescale[r] + (s[c][r] + s[c][2 + r]);
        }
        p[c][0] = transpose_matrix(pack_halves(s[c][0], s[c][1]));
        p[c][1] = transpose_matrix(pack_halves(s[c][2], s[c][3]));
#pragma unroll
        for (int n = 0; n < KSTEPS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) a.o[c][n][i] *= rescale[i % 2];
    }
    copy_wait<2 * STAGES - 2>();
    __syncwarp();
#pragma unroll
    for (int n = 0; n < KSTEPS; n++) {
        u32 values[4];
        load_matrix4_transposed(
            values, stage + (16 + (m / 2) * 8 + me.lane % 8) * PITCH + n * 16 + (m % 2) * 8);
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) mma(a.o[c][n], values, p[c][0], p[c][1]);
    }
}

__device__ __forceinline__ void write_row(const Work& w, const Item& item, int head, int r, int d, float4 o,
                                          float top, float sum) {
    const Row& row = w.rows[item.row0 + r / w.group];
    const float inverse = sum > 0.f ? 1.f / sum : 0.f;
    o.x *= inverse, o.y *= inverse, o.z *= inverse, o.w *= inverse;
    const int heads = w.kv_heads * w.group, q_head = head * w.group + r % w.group;
    if (row.part < 0) {
        u32* to = reinterpret_cast<u32*>(w.out + (i64(row.token) * heads + q_head) * HEAD_DIM + d);
        to[0] = pack_halves(o.x, o.y), to[1] = pack_halves(o.z, o.w);
    } else {
        const i64 at = i64(row.part) * heads + q_head;
        *reinterpret_cast<float4*>(w.part + at * HEAD_DIM + d) = o;
        if (d == 0) w.part_lse[at] = sum > 0.f ? top + log2f(sum) : NEVER;
    }
}

// results of `pieces` blocks, from lane `lane0` on, of which the first may be the second of its block
__device__ __forceinline__ void merge_pieces(const Work& w, const Item& item, int head, int live, int lane0, int pieces,
                                             bool first_is_second, float* room) {
    float *weight = room, *tops = room + live * pieces, *totals = tops + live;  // weight [live, pieces]
    const auto slot = [&](int p) {
        return 2 * (i64(lane0 + p) * w.kv_heads + head) + (p == 0 && first_is_second ? 1 : 0);
    };
    const auto load = [&](int i, int p) {
        const i64 at = (slot(p) * ROWS + i / (HEAD_DIM / 4)) * HEAD_DIM + 4 * (i % (HEAD_DIM / 4));
        return load_coherent(reinterpret_cast<const float4*>(w.partial + at));
    };
    float4 early[EARLY];  // under way while the weights are worked out
    if (int(threadIdx.x) < live * (HEAD_DIM / 4)) {
#pragma unroll
        for (int p = 0; p < EARLY; p++)
            if (p < pieces) early[p] = load(threadIdx.x, p);
    }
    for (int r = threadIdx.x / 32; r < live; r += WARPS) {
        float2 s[EACH];
        float top = NEVER, sum = 0.f;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const int p = threadIdx.x % 32 + 32 * j;
            s[j] = float2{NEVER, 0.f};
            if (p < pieces) s[j] = load_coherent(reinterpret_cast<const float2*>(w.stats + (slot(p) * ROWS + r) * 2));
        }
#pragma unroll
        for (int j = 0; j < EACH; j++) top = fmaxf(top, s[j].x);
        top = warp_max(top);
        const float base = top == NEVER ? 0.f : top;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const int p = threadIdx.x % 32 + 32 * j;
            const float share = exp2_fast(s[j].x - base);
            if (p < pieces) weight[r * pieces + p] = share;
            sum += share * s[j].y;
        }
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) tops[r] = top, totals[r] = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < live * (HEAD_DIM / 4); i += 32 * WARPS) {
        const int r = i / (HEAD_DIM / 4), d = 4 * (i % (HEAD_DIM / 4));
        float4 x = {0.f, 0.f, 0.f, 0.f};
        const auto add = [&](int p, const float4& y) {
            const float share = weight[r * pieces + p];
            x.x += share * y.x, x.y += share * y.y, x.z += share * y.z, x.w += share * y.w;
        };
        int p = 0;
        if (i == int(threadIdx.x)) {
#pragma unroll
            for (; p < EARLY; p++)
                if (p < pieces) add(p, early[p]);
        }
#pragma unroll 8
        for (; p < pieces; p++) add(p, load(i, p));
        write_row(w, item, head, r, d, x, tops[r], totals[r]);
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT) paged_attention(
    const elem* __restrict__ q, const elem* __restrict__ k, const elem* __restrict__ v, elem* __restrict__ out,
    const int* __restrict__ tables, const int* __restrict__ prefix, const Item* __restrict__ items,
    const Row* __restrict__ rows, const u32* __restrict__ ancestors, const float* __restrict__ turns, float* partial, float* stats,
    float* part, float* part_lse, u32* counters, int item_count, int table_width, int page_size, int page_log2, int kv_heads,
    int group, float scale_log2) {
    DYNAMIC_SHARED(shared);
    __shared__ float tops[WARPS][ROWS], sums[WARPS][ROWS];
    __shared__ Bounds bounds;
    __shared__ int is_last, at_item, found[5];
    const Work w{q, k, v, out, tables, prefix, table_width, items, rows, turns, partial, stats, part, part_lse, counters,
                 {page_size, page_log2}, kv_heads, group, scale_log2};
    // the item where this lane starts: all candidates are loaded at once, since each load waited for costs
    int p0 = 0, p1 = 0, table = 0, lo = 0, hi = 0;
    if (int(threadIdx.x) < item_count) {
        p0 = prefix[threadIdx.x], p1 = prefix[threadIdx.x + 1];
        table = items[threadIdx.x].table, lo = items[threadIdx.x].lo, hi = items[threadIdx.x].hi;
    }
    const int all = prefix[item_count];  // tiles
    int lanes = min(min(int(gridDim.x) / kv_heads, PIECES), max(1, all / MIN_TILES));
    // no lane more than the longest needs, and one fewer where that divides evenly: borders of equal requests then are
    // borders of lanes, and nothing is left to merge
    if (all > 0) {
        const int most = (all + lanes - 1) / lanes;
        lanes = (all + most - 1) / most;
        if (lanes > 16 && all % lanes && all % (lanes - 1) == 0) lanes--;
    }
    const int place = blockIdx.x / kv_heads;
    if (place >= lanes || all == 0) return;
    const int start = scaled(place, all, lanes), end = scaled(place + 1, all, lanes);
    Warp me;
    me.lane = threadIdx.x % 32, me.warp = threadIdx.x / 32, me.head = blockIdx.x % kv_heads;
    me.stage = reinterpret_cast<elem*>(shared) + me.warp * STAGES * STAGE;
    float* room = reinterpret_cast<float*>(shared + WARPS * STAGES * STAGE * sizeof(elem));
    float* mine = room + me.warp * ROWS * (SPAN + 4);
    for (int i = threadIdx.x; i < item_count; i += 32 * WARPS) {
        if (i != int(threadIdx.x)) {
            p0 = prefix[i], p1 = prefix[i + 1];
            table = items[i].table, lo = items[i].lo, hi = items[i].hi;
        }
        if (p0 <= start && start < p1) {
            at_item = i;
            found[0] = start - p0, found[1] = p1 - p0, found[2] = lo, found[3] = hi, found[4] = table;
        }
    }
    __syncthreads();
    Loader loader;
    loader.at.enter(w, at_item, found[0], found[1], found[2], found[3], found[4]);
    loader.left = end - start, loader.slot = 0, loader.page = loader.at.page(w, me);
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) loader.step(w, me);

    int u = start, slot = 0;
    for (int index = at_item; u < end; index++) {
        const Item item = items[index];
        const int begin = prefix[index], tiles = prefix[index + 1] - begin, tile = u - begin;
        const int count = min(end - u, tiles - tile);
        if (count == 0) continue;
        const int live = item.tokens * group;
        if (threadIdx.x < ROWS) {
            const Row& row = rows[item.row0 + (int(threadIdx.x) < live ? threadIdx.x / group : 0)];
            bounds.first[threadIdx.x] = row.first;
            bounds.limit[threadIdx.x] = int(threadIdx.x) < live ? row.limit : 0x7fffffff;
            bounds.tree[threadIdx.x] = int(threadIdx.x) < live ? row.tree : 0x7fffffff;
            if (ancestors) bounds.ancestors[threadIdx.x] = ancestors_of(ancestors, row.token);
        }
        u32 queries[COLUMNS][KSTEPS][2];
        load_queries(w, item, me.head, me.lane, queries);
        __syncthreads();
        Softmax a = {};
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) a.top[c][0] = a.top[c][1] = NEVER;
        for (int t = 0; t < count; t++) {
            __syncwarp();  // all lanes have left the slot that is filled now
            loader.step(w, me);
            copy_wait<2 * STAGES - 1>();
            __syncwarp();
            const int e0 = item.lo + (tile + t) * TILE + me.warp * 16;
            const elem* stage = me.stage + slot * STAGE;
            if (e0 >= item.full_lo && e0 + 16 <= item.full_hi)
                tile_step<false>(w, me, queries, a, stage, e0, bounds);
            else
                tile_step<true>(w, me, queries, a, stage, e0, bounds);
            slot = slot + 1 == STAGES ? 0 : slot + 1;
        }

        const int lane0 = int((i64(begin + 1) * lanes - 1) / all);
        const int pieces = int((i64(begin + tiles) * lanes - 1) / all) - lane0 + 1;
        // a block has at most two results that straddle: of the item it begins with and of the one it ends with
        const i64 result = 2 * (i64(place) * kv_heads + me.head) + (begin > start ? 1 : 0);
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float sum = a.sum[c][r];
                sum += __shfl_xor_sync(FULL, sum, 4);
                sum += __shfl_xor_sync(FULL, sum, 8);
                sum += __shfl_xor_sync(FULL, sum, 16);
                const int row = 8 * c + 2 * (me.lane % 4) + r;
                if (me.lane < 4) tops[me.warp][row] = a.top[c][r], sums[me.warp][row] = sum;
            }
#pragma unroll
        for (int span = 0; span < HEAD_DIM; span += SPAN) {
            if (span > 0) __syncthreads();
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
#pragma unroll
                for (int i = 0; i < SPAN / 4; i++) {
                    const int n = i / 4, part = i % 4;  // o^T: head_dim 16n + l/4 (+8), rows 2(l%4) (+1)
                    mine[(8 * c + 2 * (me.lane % 4) + part % 2) * (SPAN + 4) + 16 * n + 8 * (part / 2) + me.lane / 4] =
                        a.o[c][span / 16 + n][part];
                }
            __syncthreads();
            for (int i = threadIdx.x; i < live * (SPAN / 4); i += 32 * WARPS) {
                const int r = i / (SPAN / 4), d = 4 * (i % (SPAN / 4));
                float top = NEVER, sum = 0.f;
#pragma unroll
                for (int o = 0; o < WARPS; o++) top = fmaxf(top, tops[o][r]);
                const float base = top == NEVER ? 0.f : top;
                float4 x = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
                for (int o = 0; o < WARPS; o++) {
                    const float weight = exp2_fast(tops[o][r] - base);
                    const float4 y = *reinterpret_cast<const float4*>(room + (o * ROWS + r) * (SPAN + 4) + d);
                    sum += weight * sums[o][r];
                    x.x += weight * y.x, x.y += weight * y.y, x.z += weight * y.z, x.w += weight * y.w;
                }
                if (pieces == 1) {
                    write_row(w, item, me.head, r, span + d, x, top, sum);
                } else {
                    *reinterpret_cast<float4*>(partial + (result * ROWS + r) * HEAD_DIM + span + d) = x;
                    if (span + d == 0) stats[(result * ROWS + r) * 2] = top, stats[(result * ROWS + r) * 2 + 1] = sum;
                }
            }
        }
        if (pieces > 1) {
            __syncthreads();  // what all threads wrote is released by the arrival of one
            if (threadIdx.x == 0) is_last = arrive_last(counters + index * kv_heads + me.head, pieces);
            __syncthreads();
            if (is_last) {
                merge_pieces(w, item, me.head, live, lane0, pieces, scaled(lane0, all, lanes) < begin, room);
            }
        }
        __syncthreads();  // the room and the rows are used again
        u += count;
    }
    copy_wait<0>();
}
