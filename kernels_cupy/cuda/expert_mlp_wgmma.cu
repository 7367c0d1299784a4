// `expert_gemm` for Hopper and many tokens an expert: tiles of 128 tokens by 128 or 256 weight rows, products by
// warpgroup. Two warpgroups of 64 tokens share the weights; all threads load (cp.async, tokens gathered). Wide tiles
// need less of the L2 for a product (48 KB in 1024 cycles, not 32 KB in 512); narrow ones waste less where experts
// have few tokens, and two of their blocks fit on a multiprocessor.
#ifndef ELEM  // 0 bfloat16, 1 float16; both set by kernels_cupy/expert_mlp.py
#define ELEM 0
#endif
#ifndef GATED  // 1: gather tokens, 64 gate and 64 up rows, SiLU; 0: rows as they lie, plain product
#define GATED 1
#endif
#ifndef HALVES  // of 128 weight rows: 1 or 2
#define HALVES 1
#endif
#include "common/vector.cuh"
#include "common/warp.cuh"
#include "common/wgmma.cuh"

#define THREADS 256
#define STAGES (HALVES + 2)
#define UNDER_WAY (HALVES - 1)  // products that the next step's loads do not wait for
#define AHEAD (STAGES - 1 - UNDER_WAY)
#define OPERAND (128 * 128)  // bytes: 128 rows of 64 elements
#define STAGE ((1 + HALVES) * OPERAND)
#define ACROSS (GATED ? 64 * HALVES : 128 * HALVES)  // outputs

struct Tile { int expert, row0, rows, peers; };  // as in expert_mlp.cu

// grid: tiles at most * (outputs / ACROSS). Blocks go through an expert's outputs and for each through
// its tiles, so that these read the same weights at about the same time, from the L2. Shapes as in expert_mlp.cu.
extern "C" __global__ void __launch_bounds__(THREADS, 3 - HALVES)
    expert_gemm_wgmma(const elem* __restrict__ x, const elem* __restrict__ weights, elem* __restrict__ y,
                      const int* __restrict__ order, const Tile* __restrict__ tiles,
                      const int* __restrict__ tile_count, int inner, int outputs, int k) {
    const int across = outputs / ACROSS, number = blockIdx.x / across;
    if (number >= *tile_count) return;
    DYNAMIC_SHARED(unaligned);
    unsigned char* shared = aligned_shared(unaligned, 1024);
    const int first = tiles[number].peers / 4096, peers = tiles[number].peers % 4096, at = blockIdx.x - first * across;
    const Tile tile = tiles[first + at % peers];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int out0 = at / peers * ACROSS, steps = inner / 64;
    const elem* w = weights + i64(tile.expert) * (GATED ? 2 : 1) * outputs * inner;
    const int row32 = threadIdx.x / 8, chunk = threadIdx.x % 8;  // this chunk of rows row32, row32 + 32, …
    const elem *from_x[4], *from_w[4 * HALVES];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int r = row32 + 32 * i, row = tile.row0 + (r < tile.rows ? r : 0);
        from_x[i] = x + i64(GATED ? order[row] / k : row) * inner + chunk * 8;
    }
#pragma unroll
    for (int i = 0; i < 4 * HALVES; i++) {  // of gated ones, gate rows lie in the first half of the tile, up rows in the second
        const int r = row32 + 32 * i;
        from_w[i] = w + i64(GATED && r >= ACROSS ? outputs + out0 + r - ACROSS : out0 + r) * inner + chunk * 8;
    }
    const auto issue = [&](int step) {
        if (step < steps) {
            unsigned char* to = shared + step % STAGES * STAGE;
#pragma unroll
            for (int i = 0; i < 4; i++)
                copy16_async(to + swizzled(row32 + 32 * i, chunk), from_x[i] + step * 64, row32 + 32 * i < tile.rows);
#pragma unroll
            for (int i = 0; i < 4 * HALVES; i++)
                copy16_async(to + OPERAND + swizzled(row32 + 32 * i, chunk), from_w[i] + step * 64, true);
        }
        copy_commit();
    };
    float d[HALVES][64] = {};
#pragma unroll
    for (int s = 0; s < AHEAD; s++) issue(s);
    for (int step = 0; step < steps; step++) {
        copy_wait<AHEAD - 1>();
        products_see_shared();
        __syncthreads();  // this stage has landed, and all have left the one that is filled now
        issue(step + AHEAD);
        const unsigned char* stage = shared + step % STAGES * STAGE;
        const Matrix tokens = matrix(stage + warp / 4 * 64 * 128, 16, 1024), rows = matrix(stage + OPERAND, 16, 1024);
        wgmma_fence();
#pragma unroll
        for (int s = 0; s < 4; s++)
#pragma unroll
            for (int h = 0; h < HALVES; h++)
                wgmma(d[h], advanced(tokens, 32 * s), advanced(rows, h * OPERAND + 32 * s), true);
        wgmma_commit();
        wgmma_wait<UNDER_WAY>();
        if (UNDER_WAY == 0) hold(d[0]);
    }
    wgmma_wait<0>();
#pragma unroll
    for (int h = 0; h < HALVES; h++) hold(d[h]);
    copy_wait<0>();
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int r = warp * 16 + 8 * h + lane / 4;
        if (r < tile.rows) {
            elem* to = y + i64(tile.row0 + r) * outputs + out0 + 2 * (lane % 4);
#pragma unroll
            for (int n = 0; n < ACROSS / 8; n++) {
                float v[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int at = 4 * n + 2 * h + i, up = at + ACROSS / 2;
                    v[i] = d[at / 64][at % 64];
                    if (GATED) v[i] = __fdividef(v[i], 1.f + __expf(-v[i])) * d[up / 64 % HALVES][up % 64];
                }
                store_pair(to + 8 * n, pack_halves(v[0], v[1]));
            }
        }
    }
}
