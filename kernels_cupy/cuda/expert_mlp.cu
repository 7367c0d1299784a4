// Tokens through their experts, in four launches: group_pairs sorts (token, choice) pairs by expert and
// cuts them into tiles; expert_gemm multiplies a tile by its expert's weights, twice (gate and up with
// SiLU, then down); combine sums a token's results in ascending expert id.
//
// expert_gemm reads each weight once a tile: 64 rows of weights by COLUMNS * 8 tokens a block. The four
// warps split the sum's axis and load their own slices (cp.async), so the main loop has no block barrier;
// weight rows sit in the 16 rows of the tensor-core tile, tokens in its 8 columns, so few tokens waste little.
#ifndef ELEM  // 0 bfloat16, 1 float16; all set by kernels_cupy/expert_mlp.py
#define ELEM 0
#endif
#ifndef COLUMNS  // groups of 8 tokens a tile: 2 or 4
#define COLUMNS 2
#endif
#ifndef GATED  // 1: gather tokens, gate and up, SiLU; 0: rows as they lie, plain product
#define GATED 1
#endif
#ifndef STAGES
#define STAGES 3
#endif
#include "common/vector.cuh"
#include "common/warp.cuh"
#include "common/wgmma.cuh"

#define WARPS 4
#define TOKENS (8 * COLUMNS)
#define STEP 64  // of the sum's axis: 128 bytes a row
#define STAGE ((64 + TOKENS) * 128)  // bytes a warp

struct Tile { int expert, row0, rows, peers; };  // rows of sorted pairs; peers: the expert's first tile * 4096 + its tiles

// One block. order [n]: pair at each sorted row; place [n]: the inverse; tiles: [*tile_count].
extern "C" __global__ void __launch_bounds__(1024)
    group_pairs(const i64* __restrict__ experts, int* __restrict__ order, int* __restrict__ place,
                Tile* __restrict__ tiles, int* __restrict__ tile_count, int pairs, int expert_count, int tile_tokens) {
    __shared__ int count[1024], next[1024], sums[2][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, e = threadIdx.x;
    count[e] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < pairs; i += blockDim.x) atomicAdd(&count[experts[i]], 1);
    __syncthreads();
    const int rows = count[e], cut = (rows + tile_tokens - 1) / tile_tokens;
    int row_end = rows, cut_end = cut;  // inclusive sums over experts
#pragma unroll
    for (int by = 1; by < 32; by <<= 1) {
        const int r = __shfl_up_sync(FULL, row_end, by), c = __shfl_up_sync(FULL, cut_end, by);
        if (lane >= by) row_end += r, cut_end += c;
    }
    if (lane == 31) sums[0][warp] = row_end, sums[1][warp] = cut_end;
    __syncthreads();
    for (int w = 0; w < warp; w++) row_end += sums[0][w], cut_end += sums[1][w];
    next[e] = row_end - rows;
    for (int i = 0; i < cut; i++)
        tiles[cut_end - cut + i] =
            Tile{e, row_end - rows + i * tile_tokens, min(tile_tokens, rows - i * tile_tokens),
                                      (cut_end - cut) * 4096 + cut};
    if (e == int(blockDim.x) - 1) *tile_count = cut_end;
    __syncthreads();
    for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
        const int row = atomicAdd(&next[experts[i]], 1);  // the order within an expert changes no result
        order[row] = i, place[i] = row;
    }
}

// grid: (tiles at most, outputs / (GATED ? 32 : 64)). weights [E, GATED ? 2 * outputs : outputs, inner];
// x [T, inner] by order / k (GATED) or [pairs, inner]; y [pairs, outputs]. inner a multiple of 64.
extern "C" __global__ void __launch_bounds__(32 * WARPS, 2)
    expert_gemm(const elem* __restrict__ x, const elem* __restrict__ weights, elem* __restrict__ y,
                const int* __restrict__ order, const Tile* __restrict__ tiles, const int* __restrict__ tile_count,
                int inner, int outputs, int k) {
    if (int(blockIdx.x) >= *tile_count) return;
    DYNAMIC_SHARED(unaligned);
    unsigned char* shared = aligned_shared(unaligned, 128);
    const Tile tile = tiles[blockIdx.x];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int out0 = blockIdx.y * (GATED ? 32 : 64);
    const elem* w = weights + i64(tile.expert) * (GATED ? 2 : 1) * outputs * inner;
    unsigned char* ring = shared + warp * STAGES * STAGE;
    const int steps = (inner / STEP - warp + WARPS - 1) / WARPS;  // this warp's: warp, warp + WARPS, …

    const int row8 = lane / 8, chunk = lane % 8;  // a lane copies this chunk of rows row8, row8 + 4, …
    const elem* from_x[TOKENS / 4];
#pragma unroll
    for (int i = 0; i < TOKENS / 4; i++) {
        const int r = row8 + 4 * i;
        const int row = tile.row0 + (r < tile.rows ? r : 0);
        from_x[i] = x + i64(GATED ? order[row] / k : row) * inner + chunk * 8;
    }
    const auto issue = [&](int step) {
        if (step < steps) {
            unsigned char* to = ring + step % STAGES * STAGE;
            const i64 at = i64(warp + step * WARPS) * STEP;
#pragma unroll
            for (int i = 0; i < 16; i++) {
                const int r = row8 + 4 * i;
                const int out = GATED ? (r < 32 ? out0 + r : outputs + out0 + r - 32) : out0 + r;
                copy16_async(to + swizzled(r, chunk), w + i64(out) * inner + at + chunk * 8, true);
            }
#pragma unroll
            for (int i = 0; i < TOKENS / 4; i++)
                copy16_async(to + 64 * 128 + swizzled(row8 + 4 * i, chunk), from_x[i] + at, row8 + 4 * i < tile.rows);
        }
        copy_commit();
    };
    float sum[4][COLUMNS][4] = {};  // weight rows 16m + l/4 (+8), tokens 8c + 2(l%4) (+1)
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) issue(s);
    const int quad = lane / 8, inside = lane % 8;
    for (int step = 0; step < steps; step++) {
        __syncwarp();  // all lanes have left the stage that is filled now
        issue(step + STAGES - 1);
        copy_wait<STAGES - 1>();
        __syncwarp();
        const unsigned char* stage = ring + step % STAGES * STAGE;
#pragma unroll
        for (int d = 0; d < STEP / 16; d++) {
            u32 b[COLUMNS / 2][4];
#pragma unroll
            for (int c = 0; c < COLUMNS / 2; c++)
                load_matrix4(b[c], stage + 64 * 128 + swizzled(c * 16 + quad / 2 * 8 + inside, 2 * d + quad % 2));
#pragma unroll
            for (int m = 0; m < 4; m++) {
                u32 a[4];
                load_matrix4(a, stage + swizzled(m * 16 + quad % 2 * 8 + inside, 2 * d + quad / 2));
#pragma unroll
                for (int c = 0; c < COLUMNS / 2; c++) {
                    mma(sum[m][2 * c], a, b[c][0], b[c][1]);
                    mma(sum[m][2 * c + 1], a, b[c][2], b[c][3]);
                }
            }
        }
    }
    copy_wait<0>();
    __syncwarp();
    float* mine = reinterpret_cast<float*>(ring);  // [TOKENS, 64], the ring has drained
#pragma unroll
    for (int m = 0; m < 4; m++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                mine[(8 * c + 2 * (lane % 4) + i % 2) * 64 + 16 * m + 8 * (i / 2) + lane / 4] = sum[m][c][i];
    __syncthreads();
    const auto total = [&](int token, int row) {
        float2 all = {0.f, 0.f};
#pragma unroll
        for (int o = 0; o < WARPS; o++) {
            const float2 part = *reinterpret_cast<const float2*>(
                reinterpret_cast<float*>(shared + o * STAGES * STAGE) + token * 64 + row);
            all.x += part.x, all.y += part.y;
        }
        return all;
    };
    const int wide = GATED ? 16 : 32;  // pairs of outputs
    for (int i = threadIdx.x; i < tile.rows * wide; i += 32 * WARPS) {
        const int token = i / wide, row = 2 * (i % wide);
        float2 v = total(token, row);
        if (GATED) {
            const float2 up = total(token, 32 + row);
            v.x = __fdividef(v.x, 1.f + __expf(-v.x)) * up.x, v.y = __fdividef(v.y, 1.f + __expf(-v.y)) * up.y;
        }
        store_pair(y + i64(tile.row0 + token) * outputs + out0 + row, pack_halves(v.x, v.y));
    }
}

// out[t] = sum over the token's experts, ascending, of weight * y; one block a token, a thread 8 elements
extern "C" __global__ void __launch_bounds__(256)
    combine(const elem* __restrict__ y, const int* __restrict__ place, const float* __restrict__ weights,
            elem* __restrict__ out, int k, int width) {
    __shared__ int rows[32];
    __shared__ float share[32];
    const i64 t = blockIdx.x;
    if (int(threadIdx.x) < k) {  // sorted rows ascend with the expert: rank them
        const int row = place[t * k + threadIdx.x];
        int rank = 0;
        for (int j = 0; j < k; j++) rank += place[t * k + j] < row;
        rows[rank] = row, share[rank] = weights[t * k + threadIdx.x];
    }
    __syncthreads();
    for (int i = 8 * threadIdx.x; i < width; i += 8 * blockDim.x) {
        float sum[8] = {};
        for (int j = 0; j < k; j++) {
            float v[8];
            unpack8(load16(y + i64(rows[j]) * width + i), v);
#pragma unroll
            for (int e = 0; e < 8; e++) sum[e] += share[j] * v[e];
        }
        store16(out + t * width + i, pack8(sum));
    }
}
