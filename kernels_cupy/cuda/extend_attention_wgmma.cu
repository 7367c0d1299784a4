// `extend_attention` for Hopper: the same tiles and masks, products by warpgroup (wgmma).
// A block per multiprocessor takes (tile, KV head) after (tile, KV head), long and short in turn. Its third
// warpgroup loads: Q, two stages of K, three of V, on into the next tile, by cp.async, so that any page size serves
// (boxes by the copy engine were a tenth slower on an H200). The first two own 64 query rows each and share every 128
// entries; within a step S = Q K^T of the next entries and O += P V of these are issued together, by one warpgroup
// after the other, and the softmax of the next runs under O += P V and under the other's products (the ping-pong and
// the inner overlap of Flash-Attention 3, 2407.08608).
//
// Long because those who load and those who read walk through the same stages in step: apart, each would repeat
// the other's walk.
#ifndef ELEM  // 0 bfloat16, 1 float16; both set by kernels_cupy/extend_attention.py
#define ELEM 0
#endif
#ifndef HEAD_DIM  // 64 or 128
#define HEAD_DIM 128
#endif
#ifndef PARTS  // 1: a range of entries that many rows share, all of it; results are parts to be merged
#define PARTS 0
#endif
#include "common/barrier.cuh"
#include "common/paging.cuh"
#include "common/vector.cuh"
#include "common/warp.cuh"
#include "common/wgmma.cuh"

#define CONSUMERS 256
#define THREADS 384
#define BM 128
#define N 128
#define CHUNKS (HEAD_DIM / 8)
#define HALF_TILE (N * 128)               // bytes of 128 rows x 64 elements
#define TILE_BYTES (HEAD_DIM / 64 * HALF_TILE)
#define NEVER (-__int_as_float(0x7f800000))
#define FAR 0x7fffffff

// as in extend_attention.cu; with PARTS token0 indexes `list`, and the entries are [begin, stop)
struct Tile { int table, token0, rows, row0, limit0, begin, stop, tree; };
struct Listed { int token, part; };

struct Softmax {
    float top[2], sum[2], rescale[2];
};

// turns scores into weights in place; row h of the lane is l/4 + 8h
template <bool MASKED>
__device__ __forceinline__ void soften(float (&s)[N / 2], Softmax& a, float scale_log2, int e0, const int (&limit)[2],
                                       int window, int tree, const u64 (&read)[2], int lane) {
    if (MASKED) {
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const int h = i / 2 % 2, e = e0 + i / 4 * 8 + 2 * (lane % 4) + i % 2, end = limit[h];
            if (e >= end || (window > 0 && e < end - window)) s[i] = NEVER;
            if (!PARTS && e >= tree && !(read[h] >> (e - tree & 63) & 1)) s[i] = NEVER;
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = s[2 * h];
#pragma unroll
        for (int i = 0; i < N / 2; i += 4) most = fmaxf(most, fmaxf(s[i + 2 * h], s[i + 2 * h + 1]));
        most = fmaxf(most, __shfl_xor_sync(FULL, most, 1));
        most = fmaxf(most, __shfl_xor_sync(FULL, most, 2));
        most = fmaxf(a.top[h], most * scale_log2);
        const float base = MASKED && most == NEVER ? 0.f : most;
        a.rescale[h] = exp2_fast(a.top[h] - base);
        a.top[h] = most;
        float add = 0.f;
#pragma unroll
        for (int i = 0; i < N / 2; i += 4) {
            s[i + 2 * h] = exp2_fast(s[i + 2 * h] * scale_log2 - base);
            s[i + 2 * h + 1] = exp2_fast(s[i + 2 * h + 1] * scale_log2 - base);
            add += s[i + 2 * h] + s[i + 2 * h + 1];
        }
        a.sum[h] = a.sum[h] * a.rescale[h] + add;
    }
}


struct Work {  // a tile as its warpgroups see it
    Tile tile;
    int head, first_limit, last_limit, begin, steps;  // entries that all rows read, that the last reads; in N

    __device__ __forceinline__ Work(const Tile* tiles, int number, int kv_heads, int group, int window)
        : tile(tiles[number / kv_heads]), head(number % kv_heads) {
#if PARTS
        first_limit = last_limit = tile.stop, begin = tile.begin / N;
#else
        const bool causal = tile.tree == FAR;
        last_limit = tile.limit0 + (causal ? (tile.row0 + tile.rows - 1) / group : 0);
        first_limit = causal ? tile.limit0 + tile.row0 / group : tile.tree;
        begin = window > 0 ? max(0, first_limit - window) / N : 0;
#endif
        steps = (last_limit + N - 1) / N - begin;
    }
    __device__ __forceinline__ i64 token(const Listed* list, int row, int group) const {
        return PARTS ? list[tile.token0 + row / group].token : tile.token0 + row / group;
    }
};

// the block's `turn`-th piece of work, of `all` sorted by length: there and back, so that sums are about equal
__device__ __forceinline__ int work_of(int turn) {
    return turn * gridDim.x + (turn & 1 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    extend_attention_wgmma(const elem* __restrict__ q, const elem* __restrict__ k, const elem* __restrict__ v,
                           elem* __restrict__ out, const int* __restrict__ tables, const Tile* __restrict__ tiles,
                           int all, int table_width, int page_size, int page_log2, int kv_heads, int group, float scale_log2,
                           int window, const Listed* __restrict__ list, float* __restrict__ part, float* __restrict__ part_lse,
                           const u32* __restrict__ ancestors) {
    DYNAMIC_SHARED(unaligned);
    __shared__ Barrier full_q, free_q, full_k[2], free_k[2], full_v[3], free_v[3];
    unsigned char* shared = aligned_shared(unaligned, 1024);
    unsigned char *qs = shared, *ks = qs + TILE_BYTES, *vs = ks + 2 * TILE_BYTES;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, heads = kv_heads * group;
    if (threadIdx.x == 0) {
        const int loaders = THREADS - CONSUMERS, readers = CONSUMERS / 32;
        barrier_init(&full_q, loaders), barrier_init(&free_q, readers);
        for (int i = 0; i < 2; i++) barrier_init(&full_k[i], loaders), barrier_init(&free_k[i], readers);
        for (int i = 0; i < 3; i++) barrier_init(&full_v[i], loaders), barrier_init(&free_v[i], readers);
    }
    __syncthreads();
    int keys_seen = 0, values_seen = 0;  // stages since the start

    if (threadIdx.x >= CONSUMERS) {
        registers_down<56>();
        const Paging paging{page_size, page_log2};
        // a warp copies 32 rows of a tile, so many at a time; lane l knows where row `mine` lies
        const int at_once = 32 / CHUNKS, apart = (THREADS - CONSUMERS) / CHUNKS, chunk = lane % CHUNKS;
        const int row0 = (warp - CONSUMERS / 32) * at_once, mine = row0 + lane % at_once + lane / at_once * apart;
        for (int turn = 0; work_of(turn) < all; turn++) {
            const Work w(tiles, work_of(turn), kv_heads, group, window);
            const int* table = tables + i64(w.tile.table) * table_width;
            const auto entry_of = [&](int step) { return min((w.begin + step) * N + mine, w.last_limit - 1); };
            const auto page_of = [&](int step) { return __ldg(table + paging.page(entry_of(step))); };
            const auto offset_of = [&](int step, int page) {
                return (paging.slot(page, entry_of(step)) * kv_heads + w.head) * CHUNKS;
            };
            const auto copy = [&](const elem* from, unsigned char* to, int step, u32 offset, Barrier* full) {
#pragma unroll 4
                for (int j = 0; j < CHUNKS; j++) {
                    const int row = row0 + lane / CHUNKS + j * apart;
                    const u32 at = __shfl_sync(FULL, offset, j * at_once + lane / CHUNKS) + chunk;
                    copy16_async(to + chunk / 8 * HALF_TILE + swizzled(row, chunk % 8), from + i64(at) * 8,
                                 (w.begin + step) * N + row < w.last_limit);
                }
                copies_arrive(full);
            };
            const auto free_keys = [&](int step) {
                const int n = keys_seen + step;
                if (n >= 2) barrier_wait(&free_k[n & 1], n / 2 - 1);
                return n & 1;
            };
            const auto free_values = [&](int step) {
                const int n = values_seen + step;
                if (n >= 3) barrier_wait(&free_v[n % 3], n / 3 - 1);
                return n % 3;
            };
            u32 offset = offset_of(0, page_of(0));
            int page = page_of(1);
            if (turn > 0) barrier_wait(&free_q, turn - 1);
#pragma unroll 1
            for (int r = row0 + lane / CHUNKS; r < BM; r += apart) {
                const int row = w.tile.row0 + r;
                const i64 at = r < w.tile.rows
                    ? (w.token(list, row, group) * heads + w.head * group + row % group) * HEAD_DIM + chunk * 8 : 0;
                copy16_async(qs + chunk / 8 * HALF_TILE + swizzled(r, chunk % 8), q + at, r < w.tile.rows);
            }
            copies_arrive(&full_q);
            for (int step = 0; step < w.steps; step++) {
                if (step == 0) copy(k, ks + free_keys(0) * TILE_BYTES, 0, offset, &full_k[keys_seen & 1]);
                const int v_at = free_values(step);
                copy(v, vs + v_at * TILE_BYTES, step, offset, &full_v[v_at]);
                offset = offset_of(step + 1, page), page = page_of(step + 2);
                if (step + 1 < w.steps) {
                    const int k_at = free_keys(step + 1);
                    copy(k, ks + k_at * TILE_BYTES, step + 1, offset, &full_k[k_at]);
                }
            }
            keys_seen += w.steps, values_seen += w.steps;
        }
        copy_wait<0>();
        return;
    }

    registers_up<224>();
    const int group_of = warp / 4;
    const Matrix queries = matrix(qs + group_of * 64 * 128, 16, 1024);
    const auto leave = [&](Barrier* b) {
        if (lane == 0) barrier_arrive(b);
    };
    for (int turn = 0; work_of(turn) < all; turn++) {
        const Work w(tiles, work_of(turn), kv_heads, group, window);
        int limit[2];
#pragma unroll
        for (int h = 0; h < 2; h++)
            limit[h] = PARTS || w.tile.tree != FAR ? w.last_limit
                                                   : w.tile.limit0 + (w.tile.row0 + warp * 16 + 8 * h + lane / 4) / group;
        float o[HEAD_DIM / 2], s[N / 2];
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 2; i++) o[i] = 0.f;
        u32 p[N / 16][4];
        Softmax a = {{NEVER, NEVER}, {0.f, 0.f}, {1.f, 1.f}};

        const auto scores = [&](int step) {
            const Matrix keys = matrix(ks + (keys_seen + step & 1) * TILE_BYTES, 16, 1024);
#pragma unroll
            for (int d = 0; d < HEAD_DIM / 16; d++) {
                const u32 at = d / 4 * HALF_TILE + d % 4 * 32;
                wgmma(s, advanced(queries, at), advanced(keys, at), d > 0);
            }
            wgmma_commit();
        };
        const auto weigh = [&](int step) {
            const int e0 = (w.begin + step) * N;
            u64 read[2] = {};
            if (e0 + N > w.first_limit || (!PARTS && window > 0 && e0 < w.last_limit - window)) {
                if (!PARTS && w.tile.tree != FAR) {
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        const int r = min(warp * 16 + 8 * h + lane / 4, w.tile.rows - 1);
                        read[h] = ancestors_of(ancestors, w.tile.token0 + (w.tile.row0 + r) / group);
                    }
                }
                soften<true>(s, a, scale_log2, e0, limit, window, w.tile.tree, read, lane);
            } else {
                soften<false>(s, a, scale_log2, e0, limit, window, w.tile.tree, read, lane);
            }
        };
        const auto pack = [&] {
#pragma unroll
            for (int t = 0; t < N / 16; t++)
#pragma unroll
                for (int i = 0; i < 4; i++) p[t][i] = pack_halves(s[8 * t + 2 * i], s[8 * t + 2 * i + 1]);
        };
        const auto accumulate = [&](int step) {
            const Matrix values = matrix(vs + (values_seen + step) % 3 * TILE_BYTES, HALF_TILE, 1024);
#pragma unroll
            for (int t = 0; t < N / 16; t++) wgmma(o, p[t], advanced(values, t * 16 * 128), true);
            wgmma_commit();
        };
        const auto keys_landed = [&](int step) {
            const int n = keys_seen + step;
            barrier_wait(&full_k[n & 1], n / 2);
        };
        const auto values_landed = [&](int step) {
            const int n = values_seen + step;
            barrier_wait(&full_v[n % 3], n / 3);
        };

        barrier_wait(&full_q, turn);
        keys_landed(0);
        products_see_shared();
        wgmma_fence();
        scores(0);
        wgmma_wait<0>();
        hold(s);
        leave(&free_k[keys_seen & 1]);
        if (w.steps == 1) leave(&free_q);
        weigh(0);
        pack();

        if (group_of == 1 && w.steps > 1) named_arrive(1, CONSUMERS);  // the first turn is warpgroup 0's
        int step = 0;
        for (; step + 1 < w.steps; step++) {
            keys_landed(step + 1);
            values_landed(step);
            products_see_shared();
            named_sync(1 + group_of, CONSUMERS);
            wgmma_fence();
            scores(step + 1);
            accumulate(step);
            if (group_of == 0 || step + 2 < w.steps) named_arrive(2 - group_of, CONSUMERS);
            wgmma_wait<1>();
            hold(s);
            leave(&free_k[keys_seen + step + 1 & 1]);
            if (step + 2 == w.steps) leave(&free_q);
            weigh(step + 1);
            wgmma_wait<0>();
            hold(o);
            leave(&free_v[(values_seen + step) % 3]);
            if (__any_sync(FULL, a.rescale[0] != 1.f || a.rescale[1] != 1.f)) {  // seldom, once the maximum is found
#pragma unroll
                for (int i = 0; i < HEAD_DIM / 2; i++) o[i] *= a.rescale[i / 2 % 2];
            }
            pack();
        }
        values_landed(step);
        products_see_shared();
        wgmma_fence();
        accumulate(step);
        wgmma_wait<0>();
        hold(o);
        leave(&free_v[(values_seen + step) % 3]);
        keys_seen += w.steps, values_seen += w.steps;

#pragma unroll
        for (int h = 0; h < 2; h++) {
            float sum = a.sum[h];
            sum += __shfl_xor_sync(FULL, sum, 1);
            sum += __shfl_xor_sync(FULL, sum, 2);
            const float inverse = sum > 0.f ? 1.f / sum : 0.f;
            const int r = warp * 16 + 8 * h + lane / 4, row = w.tile.row0 + r;
            if (r < w.tile.rows) {
#if PARTS
                const i64 at = i64(list[w.tile.token0 + row / group].part) * heads + w.head * group + row % group;
                if (lane % 4 == 0) part_lse[at] = sum > 0.f ? a.top[h] + log2f(sum) : NEVER;
#pragma unroll
                for (int d = 0; d < HEAD_DIM / 8; d++)
                    *reinterpret_cast<float2*>(part + at * HEAD_DIM + 8 * d + 2 * (lane % 4)) =
                        float2{o[4 * d + 2 * h] * inverse, o[4 * d + 2 * h + 1] * inverse};
#else
                elem* to = out + (w.token(list, row, group) * heads + w.head * group + row % group) * HEAD_DIM;
#pragma unroll
                for (int d = 0; d < HEAD_DIM / 8; d++)
                    store_pair(to + 8 * d + 2 * (lane % 4),
                               pack_halves(o[4 * d + 2 * h] * inverse, o[4 * d + 2 * h + 1] * inverse));
#endif
            }
        }
    }
}
