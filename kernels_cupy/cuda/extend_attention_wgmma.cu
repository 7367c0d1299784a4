// `extend_attention` for Hopper: the same tiles and masks, products by warpgroup (wgmma).
// Two warpgroups of 64 query rows share each tile of 128 entries. All threads load (cp.async, so that any
// page size serves); two stages of K, three of V, each with barriers of its own, so that the warpgroups may
// be half a step apart. Within a step S = Q K^T of the next tile and O += P V of this one are issued
// together, by one warpgroup after the other, and the softmax of the next tile runs under O += P V and under
// the other's products (the ping-pong and the inner overlap of Flash-Attention 3, 2407.08608).
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

#define THREADS 256
#define BM 128
#define N 128
#define CHUNKS (HEAD_DIM / 8)
#define HALF_TILE (N * 128)               // bytes of 128 rows x 64 elements
#define TILE_BYTES (HEAD_DIM / 64 * HALF_TILE)
#define NEVER (-__int_as_float(0x7f800000))

// as in extend_attention.cu; with PARTS token0 indexes `list`, and the entries are [begin, stop)
struct Tile { int table, token0, rows, row0, limit0, begin, stop, unused; };
struct Listed { int token, part; };

struct Softmax {
    float top[2], sum[2], rescale[2];
};

// turns scores into weights in place; row h of the lane is l/4 + 8h
template <bool MASKED>
__device__ __forceinline__ void soften(float (&s)[N / 2], Softmax& a, float scale_log2, int e0, const int (&limit)[2],
                                       int window, int lane) {
    if (MASKED) {
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const int e = e0 + i / 4 * 8 + 2 * (lane % 4) + i % 2, end = limit[i / 2 % 2];
            if (e >= end || (window > 0 && e < end - window)) s[i] = NEVER;
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

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    extend_attention_wgmma(const elem* __restrict__ q, const elem* __restrict__ k, const elem* __restrict__ v,
                           elem* __restrict__ out, const int* __restrict__ tables, const Tile* __restrict__ tiles,
                           int table_width, int page_size, int page_log2, int kv_heads, int group, float scale_log2, int window,
                           const Listed* __restrict__ list, float* __restrict__ part, float* __restrict__ part_lse) {
    DYNAMIC_SHARED(unaligned);
    __shared__ Barrier full_k[2], free_k[2], full_v[3], free_v[3];
    unsigned char* shared = aligned_shared(unaligned, 1024);
    unsigned char *qs = shared, *ks = qs + TILE_BYTES, *vs = ks + 2 * TILE_BYTES;
    const Tile tile = tiles[blockIdx.x];
    const int head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32, heads = kv_heads * group;
    const Paging paging{page_size, page_log2};
    const int* table = tables + i64(tile.table) * table_width;
#if PARTS
    const int last_limit = tile.stop, first_limit = tile.stop, begin = tile.begin / N;
#else
    const int last_limit = tile.limit0 + (tile.row0 + tile.rows - 1) / group;  // of the tile's last token
    const int first_limit = tile.limit0 + tile.row0 / group;
    const int begin = window > 0 ? max(0, first_limit - window) / N : 0;
#endif
    const auto token_of = [&](int row) -> i64 {
        return PARTS ? list[tile.token0 + row / group].token : tile.token0 + row / group;
    };
    const int steps = (last_limit + N - 1) / N - begin;
    const Vec16* k16 = reinterpret_cast<const Vec16*>(k);
    const Vec16* v16 = reinterpret_cast<const Vec16*>(v);

    // a warp copies 16 rows of a tile, so many at a time; lane l knows where row `mine` lies
    const int at_once = 32 / CHUNKS, apart = THREADS / CHUNKS;
    const int mine = warp * at_once + lane % at_once + lane % 16 / at_once * apart;
    const auto entry_of = [&](int step) { return min((begin + step) * N + mine, last_limit - 1); };
    const auto page_of = [&](int step) { return __ldg(table + paging.page(entry_of(step))); };
    const auto offset_of = [&](int step, int page) {
        return (paging.slot(page, entry_of(step)) * kv_heads + head) * CHUNKS;
    };
    const auto copy = [&](const Vec16* from, unsigned char* to, int step, u32 offset, Barrier* full) {
        const int chunk = lane % CHUNKS;
#pragma unroll
        for (int j = 0; j < CHUNKS / 2; j++) {
            const int row = warp * at_once + lane / CHUNKS + j * apart;
            const u32 at = __shfl_sync(FULL, offset, j * at_once + lane / CHUNKS) + chunk;
            copy16_async(to + chunk / 8 * HALF_TILE + swizzled(row, chunk % 8), from + at,
                         (begin + step) * N + row < last_limit);
        }
        copies_arrive(full);
    };
    const auto copy_keys = [&](int step, u32 offset) {
        if (step >= 2) barrier_wait(&free_k[step & 1], step / 2 - 1);
        copy(k16, ks + (step & 1) * TILE_BYTES, step, offset, &full_k[step & 1]);
    };
    const auto copy_values = [&](int step, u32 offset) {
        if (step >= 3) barrier_wait(&free_v[step % 3], step / 3 - 1);
        copy(v16, vs + step % 3 * TILE_BYTES, step, offset, &full_v[step % 3]);
    };

    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) barrier_init(&full_k[i], THREADS), barrier_init(&free_k[i], THREADS / 32);
        for (int i = 0; i < 3; i++) barrier_init(&full_v[i], THREADS), barrier_init(&free_v[i], THREADS / 32);
    }
    u32 offset = offset_of(0, page_of(0)), next = offset_of(1, page_of(1));
    int page = page_of(2);
    __syncthreads();
    for (int i = threadIdx.x; i < BM * CHUNKS; i += THREADS) {
        const int r = i / CHUNKS, chunk = i % CHUNKS, row = tile.row0 + r;
        const i64 token = r < tile.rows ? token_of(row) : 0;
        copy16_async(qs + chunk / 8 * HALF_TILE + swizzled(r, chunk % 8),
                     q + (r < tile.rows ? (token * heads + head * group + row % group) * HEAD_DIM + chunk * 8 : 0),
                     r < tile.rows);
    }
    copy_keys(0, offset);  // arrives when Q has landed too
    copy_values(0, offset);
    if (steps > 1) copy_keys(1, next);

    int limit[2];
#pragma unroll
    for (int h = 0; h < 2; h++)
        limit[h] = PARTS ? last_limit : tile.limit0 + (tile.row0 + warp * 16 + 8 * h + lane / 4) / group;
    const Matrix queries = matrix(qs + warp / 4 * 64 * 128, 16, 1024);
    float o[HEAD_DIM / 2] = {}, s[N / 2];
    u32 p[N / 16][4];
    Softmax a = {{NEVER, NEVER}, {0.f, 0.f}, {1.f, 1.f}};

    const auto scores = [&](int step) {
        const Matrix keys = matrix(ks + (step & 1) * TILE_BYTES, 16, 1024);
#pragma unroll
        for (int d = 0; d < HEAD_DIM / 16; d++) {
            const u32 at = d / 4 * HALF_TILE + d % 4 * 32;
            wgmma(s, advanced(queries, at), advanced(keys, at), d > 0);
        }
        wgmma_commit();
    };
    const auto weigh = [&](int step) {
        const int e0 = (begin + step) * N;
        if (e0 + N > first_limit || (window > 0 && e0 < last_limit - window))
            soften<true>(s, a, scale_log2, e0, limit, window, lane);
        else
            soften<false>(s, a, scale_log2, e0, limit, window, lane);
    };
    const auto pack = [&] {
#pragma unroll
        for (int t = 0; t < N / 16; t++)
#pragma unroll
            for (int i = 0; i < 4; i++) p[t][i] = pack_halves(s[8 * t + 2 * i], s[8 * t + 2 * i + 1]);
    };

    const auto accumulate = [&](int step) {
        const Matrix values = matrix(vs + step % 3 * TILE_BYTES, HALF_TILE, 1024);
#pragma unroll
        for (int t = 0; t < N / 16; t++) wgmma(o, p[t], advanced(values, t * 16 * 128), true);
        wgmma_commit();
    };

    const auto leave = [&](Barrier* b) {
        if (lane == 0) barrier_arrive(b);
    };

    barrier_wait(&full_k[0], 0);
    products_see_shared();
    wgmma_fence();
    scores(0);
    wgmma_wait<0>();
    hold(s);
    leave(&free_k[0]);
    weigh(0);
    pack();

    const int group_of = warp / 4;
    if (group_of == 1 && steps > 1) named_arrive(1, THREADS);  // the first turn is warpgroup 0's
    int step = 0;
    for (; step + 1 < steps; step++) {
        barrier_wait(&full_k[(step + 1) & 1], (step + 1) / 2);
        barrier_wait(&full_v[step % 3], step / 3);
        products_see_shared();
        named_sync(1 + group_of, THREADS);
        wgmma_fence();
        scores(step + 1);
        accumulate(step);
        if (group_of == 0 || step + 2 < steps) named_arrive(2 - group_of, THREADS);
        copy_values(step + 1, next);
        if (step + 2 < steps) {
            next = offset_of(step + 2, page);
            page = page_of(step + 3);
            copy_keys(step + 2, next);
        }
        wgmma_wait<1>();
        hold(s);
        leave(&free_k[(step + 1) & 1]);
        weigh(step + 1);
        wgmma_wait<0>();
        hold(o);
        leave(&free_v[step % 3]);
        if (__any_sync(FULL, a.rescale[0] != 1.f || a.rescale[1] != 1.f)) {  // seldom, once the maximum is found
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 2; i++) o[i] *= a.rescale[i / 2 % 2];
        }
        pack();
    }
    barrier_wait(&full_v[step % 3], step / 3);
    products_see_shared();
    wgmma_fence();
    accumulate(step);
    wgmma_wait<0>();
    hold(o);

#pragma unroll
    for (int h = 0; h < 2; h++) {
        float all = a.sum[h];
        all += __shfl_xor_sync(FULL, all, 1);
        all += __shfl_xor_sync(FULL, all, 2);
        const float inverse = all > 0.f ? 1.f / all : 0.f;
        const int r = warp * 16 + 8 * h + lane / 4, row = tile.row0 + r;
        if (r < tile.rows) {
#if PARTS
            const i64 at = i64(list[tile.token0 + row / group].part) * heads + head * group + row % group;
            if (lane % 4 == 0) part_lse[at] = all > 0.f ? a.top[h] + log2f(all) : NEVER;
#pragma unroll
            for (int d = 0; d < HEAD_DIM / 8; d++)
                *reinterpret_cast<float2*>(part + at * HEAD_DIM + 8 * d + 2 * (lane % 4)) =
                    float2{o[4 * d + 2 * h] * inverse, o[4 * d + 2 * h + 1] * inverse};
#else
            elem* to = out + (token_of(row) * heads + head * group + row % group) * HEAD_DIM;
#pragma unroll
            for (int d = 0; d < HEAD_DIM / 8; d++)
                store_pair(to + 8 * d + 2 * (lane % 4),
                           pack_halves(o[4 * d + 2 * h] * inverse, o[4 * d + 2 * h + 1] * inverse));
#endif
        }
    }
}
