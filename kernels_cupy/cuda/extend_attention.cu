// Softmax attention of many new tokens over paged KV: prefill, chunks of it, long extends. Causal among
// the new tokens. One block a tile of BM query rows and KV head; query rows are tokens x heads of the
// group, so that the heads that share K and V share their loads. Arithmetic: 4 * BM * KV * D a tile.
//
// Tiles of N entries of K and V come by cp.async, two of each in flight in turn; Q stays in shared memory,
// a warp owns 16 * M_TILES rows of it, and the accumulators live in registers (Flash-Attention 2, 2307.08691).
#ifndef ELEM  // 0 bfloat16, 1 float16; all set by kernels_cupy/extend_attention.py
#define ELEM 0
#endif
#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif
#ifndef M_TILES  // of 16 query rows, a warp
#define M_TILES 2
#endif
#ifndef N  // KV entries a step
#define N 64
#endif
#ifndef RESIDENT
#define RESIDENT 2
#endif
#include "common/paging.cuh"
#include "common/vector.cuh"
#include "common/warp.cuh"

#define WARPS 4
#define THREADS (32 * WARPS)
#define BM (16 * M_TILES * WARPS)
#define CHUNKS (HEAD_DIM / 8)
#define PITCH (HEAD_DIM + 8)
#define KSTEPS (HEAD_DIM / 16)
#define NTILES (N / 8)
#define NEVER (-__int_as_float(0x7f800000))
#define FAR 0x7fffffff

struct Tile { int table, token0, rows, row0, limit0, unused[2], tree; };  // of query rows, see below

// tile.token0: packed index of the request's first new token; row0: first query row of the tile (row =
// token * group + head); rows: the tile's rows; limit0: entries that token 0 of the request reads. A request that
// is a token tree has its first new entry in `tree`, others FAR; all its tokens read limit0 entries but those that
// their `ancestors` [T, 2] leave out from there on
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    extend_attention(const elem* __restrict__ q, const elem* __restrict__ k, const elem* __restrict__ v,
                     elem* __restrict__ out, const int* __restrict__ tables, const Tile* __restrict__ tiles,
                     int table_width, int page_size, int page_log2, int kv_heads, int group, float scale_log2, int window,
                     const u32* __restrict__ ancestors) {
    DYNAMIC_SHARED(shared);
    __shared__ u32 offsets[4][N];
    elem* qs = reinterpret_cast<elem*>(shared);  // [BM, PITCH]
    elem* ks = qs + BM * PITCH;                  // 2 x [N, PITCH]
    elem* vs = ks + 2 * N * PITCH;
    const Tile tile = tiles[blockIdx.x];
    const int head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32, heads = kv_heads * group;
    const Paging paging{page_size, page_log2};
    const int* table = tables + i64(tile.table) * table_width;
    const bool causal = tile.tree == FAR;
    const int last_limit = tile.limit0 + (causal ? (tile.row0 + tile.rows - 1) / group : 0);  // of the last token
    const int first_limit = causal ? tile.limit0 + tile.row0 / group : tile.tree;
    const int begin = window > 0 ? max(0, first_limit - window) / N : 0;
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
    const auto issue = [&](const Vec16* from, elem* to, int step) {
        if (step < steps) {
#pragma unroll
            for (int i = threadIdx.x; i < N * CHUNKS; i += THREADS) {
                const int row = i / CHUNKS, chunk = i % CHUNKS;
                copy16_async(to + ((step & 1) * N + row) * PITCH + chunk * 8, from + offsets[step % 4][row] + chunk,
                             (begin + step) * N + row < last_limit);
            }
        }
        copy_commit();
    };

    for (int i = threadIdx.x; i < BM * CHUNKS; i += THREADS) {
        const int r = i / CHUNKS, chunk = i % CHUNKS, row = tile.row0 + r;
        const i64 token = tile.token0 + row / group;
        copy16_async(qs + r * PITCH + chunk * 8,
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
    issue(k16, ks, 0);  // the first group holds Q too
    issue(v16, vs, 0);

    const auto row_of = [&](int m, int h) { return tile.row0 + (warp * M_TILES + m) * 16 + 8 * h + lane / 4; };
    int limit[M_TILES][2];
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            limit[m][h] = tile.limit0 + (causal ? row_of(m, h) / group : 0);
    float o[M_TILES][HEAD_DIM / 8][4] = {};
    float top[M_TILES][2], sum[M_TILES][2] = {};
#pragma unroll
    for (int m = 0; m < M_TILES; m++) top[m][0] = top[m][1] = NEVER;
    const int quad = lane / 8, inner = lane % 8;

    for (int step = 0; step < steps; step++) {
        copy_wait<1>();
        __syncthreads();
        if (threadIdx.x < N) {
            put_offset(step + 2, page);
            page = page_of(step + 3);
        }
        issue(k16, ks, step + 1);
        const elem* keys = ks + (step & 1) * N * PITCH;
        float s[M_TILES][NTILES][4] = {};
#pragma unroll
        for (int d = 0; d < KSTEPS; d++) {
            u32 a[M_TILES][4];
#pragma unroll
            for (int m = 0; m < M_TILES; m++)
                load_matrix4(a[m], qs + ((warp * M_TILES + m) * 16 + (quad % 2) * 8 + inner) * PITCH + d * 16 +
                                       (quad / 2) * 8);
#pragma unroll
            for (int n = 0; n < NTILES; n += 2) {
                u32 b[4];
                load_matrix4(b, keys + (n * 8 + (quad / 2) * 8 + inner) * PITCH + d * 16 + (quad % 2) * 8);
#pragma unroll
                for (int m = 0; m < M_TILES; m++) {
                    mma(s[m][n], a[m], b[0], b[1]);
                    mma(s[m][n + 1], a[m], b[2], b[3]);
                }
            }
        }
        const int e0 = (begin + step) * N;
        if (e0 + N > first_limit || (window > 0 && e0 < last_limit - window)) {
#pragma unroll
            for (int m = 0; m < M_TILES; m++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const int row = min(row_of(m, h), tile.row0 + tile.rows - 1), end = limit[m][h];
                    const u64 read = causal ? 0 : ancestors_of(ancestors, tile.token0 + row / group);
#pragma unroll
                    for (int n = 0; n < NTILES; n++)
#pragma unroll
                        for (int i = 0; i < 2; i++) {
                            const int e = e0 + n * 8 + 2 * (lane % 4) + i;
                            if (e >= end || (window > 0 && e < end - window) ||
                                (e >= tile.tree && !(read >> (e - tile.tree & 63) & 1)))
                                s[m][n][2 * h + i] = NEVER;
                        }
                }
        }
        u32 p[M_TILES][NTILES][2];
#pragma unroll
        for (int m = 0; m < M_TILES; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float most = s[m][0][2 * h];
#pragma unroll
                for (int n = 0; n < NTILES; n++) most = fmaxf(most, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
                most = fmaxf(most, __shfl_xor_sync(FULL, most, 1));
                most = fmaxf(most, __shfl_xor_sync(FULL, most, 2));
                most = fmaxf(top[m][h], most * scale_log2);
                const float base = most == NEVER ? 0.f : most, rescale = exp2_fast(top[m][h] - base);
                top[m][h] = most;
                float add = 0.f;
#pragma unroll
                for (int n = 0; n < NTILES; n++) {
                    const float x = exp2_fast(s[m][n][2 * h] * scale_log2 - base);
                    const float y = exp2_fast(s[m][n][2 * h + 1] * scale_log2 - base);
                    add += x + y;
                    p[m][n][h] = pack_halves(x, y);
                }
                sum[m][h] = sum[m][h] * rescale + add;
#pragma unroll
                for (int d = 0; d < HEAD_DIM / 8; d++) o[m][d][2 * h] *= rescale, o[m][d][2 * h + 1] *= rescale;
            }
        copy_wait<1>();
        __syncthreads();
        issue(v16, vs, step + 1);
        const elem* values = vs + (step & 1) * N * PITCH;
#pragma unroll
        for (int n = 0; n < NTILES; n += 2) {
#pragma unroll
            for (int d = 0; d < KSTEPS; d++) {
                u32 b[4];
                load_matrix4_transposed(
                    b, values + (n * 8 + (quad % 2) * 8 + inner) * PITCH + d * 16 + (quad / 2) * 8);
#pragma unroll
                for (int m = 0; m < M_TILES; m++) {
                    const u32 a[4] = {p[m][n][0], p[m][n][1], p[m][n + 1][0], p[m][n + 1][1]};
                    mma(o[m][2 * d], a, b[0], b[1]);
                    mma(o[m][2 * d + 1], a, b[2], b[3]);
                }
            }
        }
    }
    copy_wait<0>();

#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float all = sum[m][h];
            all += __shfl_xor_sync(FULL, all, 1);
            all += __shfl_xor_sync(FULL, all, 2);
            const float inverse = all > 0.f ? 1.f / all : 0.f;
            const int r = (warp * M_TILES + m) * 16 + 8 * h + lane / 4, row = tile.row0 + r;
            if (r < tile.rows) {
                elem* to = out + (i64(tile.token0 + row / group) * heads + head * group + row % group) * HEAD_DIM;
#pragma unroll
                for (int d = 0; d < HEAD_DIM / 8; d++)
                    store_pair(to + 8 * d + 2 * (lane % 4),
                               pack_halves(o[m][d][2 * h] * inverse, o[m][d][2 * h + 1] * inverse));
            }
        }
}
