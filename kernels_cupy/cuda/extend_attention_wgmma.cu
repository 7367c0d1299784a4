// `extend_attention` for Hopper: the same tiles and masks, products by warpgroup (wgmma).
// Two warpgroups of 64 query rows share each tile of 128 entries. All threads load (cp.async, so that any
// page size serves); two stages of K and of V. Within a step the product S = Q K^T of the next tile and
// O += P V of this one are issued together, and the softmax of the next runs under O += P V (the inner
// overlap of Flash-Attention 3, 2407.08608).
#ifndef ELEM  // 0 bfloat16, 1 float16; both set by kernels_cupy/extend_attention.py
#define ELEM 0
#endif
#ifndef HEAD_DIM  // 64 or 128
#define HEAD_DIM 128
#endif
#ifndef PARTS  // 1: a range of entries that many rows share, all of it; results are parts to be merged
#define PARTS 0
#endif
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
    __shared__ u32 offsets[4][N];
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

    const auto page_of = [&](int step) {
        const int e = min((begin + step) * N + int(threadIdx.x), last_limit - 1);
        return __ldg(table + paging.page(e));
    };
    const auto put_offset = [&](int step, int page) {
        const int e = min((begin + step) * N + int(threadIdx.x), last_limit - 1);
        offsets[step % 4][threadIdx.x] = (paging.slot(page, e) * kv_heads + head) * CHUNKS;
    };
    const auto issue = [&](const Vec16* from, unsigned char* to, int step) {
        if (step < steps) {
#pragma unroll
            for (int i = threadIdx.x; i < N * CHUNKS; i += THREADS) {
                const int row = i / CHUNKS, chunk = i % CHUNKS;
                copy16_async(to + (step & 1) * TILE_BYTES + chunk / 8 * HALF_TILE + swizzled(row, chunk % 8),
                             from + offsets[step % 4][row] + chunk, (begin + step) * N + row < last_limit);
            }
        }
    };

    for (int i = threadIdx.x; i < BM * CHUNKS; i += THREADS) {
        const int r = i / CHUNKS, chunk = i % CHUNKS, row = tile.row0 + r;
        const i64 token = r < tile.rows ? token_of(row) : 0;
        copy16_async(qs + chunk / 8 * HALF_TILE + swizzled(r, chunk % 8),
                     q + (r < tile.rows ? (token * heads + head * group + row % group) * HEAD_DIM + chunk * 8 : 0),
                     r < tile.rows);
    }
    int page = 0;
    if (threadIdx.x < N) {
        put_offset(0, page_of(0));
        put_offset(1, page_of(1));
        page = page_of(2);
    }
    __syncthreads();
    issue(k16, ks, 0);
    copy_commit();
    issue(k16, ks, 1);
    issue(v16, vs, 0);
    copy_commit();

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

    copy_wait<1>();
    products_see_shared();
    __syncthreads();
    wgmma_fence();
    scores(0);
    wgmma_wait<0>();
    hold(s);
    weigh(0);
    pack();

    const auto accumulate = [&](int step) {
        const Matrix values = matrix(vs + (step & 1) * TILE_BYTES, HALF_TILE, 1024);
#pragma unroll
        for (int t = 0; t < N / 16; t++) wgmma(o, p[t], advanced(values, t * 16 * 128), true);
        wgmma_commit();
    };

    int step = 0;
    for (; step + 1 < steps; step++) {
        copy_wait<0>();  // K of the next step, V of this one
        products_see_shared();
        if (threadIdx.x < N) {
            put_offset(step + 2, page);
            page = page_of(step + 3);
        }
        __syncthreads();
        wgmma_fence();
        scores(step + 1);
        accumulate(step);
        issue(k16, ks, step + 2);
        issue(v16, vs, step + 1);
        copy_commit();
        wgmma_wait<1>();
        hold(s);
        weigh(step + 1);
        wgmma_wait<0>();
        hold(o);
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 2; i++) o[i] *= a.rescale[i / 2 % 2];
        pack();
    }
    copy_wait<0>();
    products_see_shared();
    __syncthreads();
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
