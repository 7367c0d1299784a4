// `expert_gemm` for Hopper and many tokens an expert: tiles of 128 tokens by 128 weight rows, products by
// warpgroup. Two warpgroups of 64 tokens share the weights; all threads load (cp.async, tokens gathered).
#ifndef ELEM  // 0 bfloat16, 1 float16; both set by kernels_cupy/expert_mlp.py
#define ELEM 0
#endif
#ifndef GATED  // 1: gather tokens, 64 gate and 64 up rows, SiLU; 0: rows as they lie, plain product
#define GATED 1
#endif
#include "common/vector.cuh"
#include "common/warp.cuh"
#include "common/wgmma.cuh"

#define THREADS 256
#define STAGES 3
#define OPERAND (128 * 128)  // bytes: 128 rows of 64 elements
#define STAGE (2 * OPERAND)

struct Tile { int expert, row0, rows, peers; };  // as in expert_mlp.cu

// grid: tiles at most * (outputs / (GATED ? 64 : 128)). Blocks go through an expert's outputs and for each through
// its tiles, so that these read the same weights at about the same time, from the L2. Shapes as in expert_mlp.cu.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    expert_gemm_wgmma(const elem* __restrict__ x, const elem* __restrict__ weights, elem* __restrict__ y,
                      const int* __restrict__ order, const Tile* __restrict__ tiles,
                      const int* __restrict__ tile_count, int inner, int outputs, int k) {
    const int across = outputs / (GATED ? 64 : 128), number = blockIdx.x / across;
    if (number >= *tile_count) return;
    DYNAMIC_SHARED(unaligned);
    unsigned char* shared = aligned_shared(unaligned, 1024);
    const int first = tiles[number].peers / 4096, peers = tiles[number].peers % 4096, at = blockIdx.x - first * across;
    const Tile tile = tiles[first + at % peers];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int out0 = at / peers * (GATED ? 64 : 128), steps = inner / 64;
    const elem* w = weights + i64(tile.expert) * (GATED ? 2 : 1) * outputs * inner;
    const int row32 = threadIdx.x / 8, chunk = threadIdx.x % 8;  // this chunk of rows row32, row32 + 32, …
    const elem *from_x[4], *from_w[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int r = row32 + 32 * i, row = tile.row0 + (r < tile.rows ? r : 0);
        from_x[i] = x + i64(GATED ? order[row] / k : row) * inner + chunk * 8;
        const int out = GATED && r >= 64 ? outputs + out0 + r - 64 : out0 + r;
        from_w[i] = w + i64(out) * inner + chunk * 8;
    }
    const auto issue = [&](int step) {
        if (step < steps) {
            unsigned char* to = shared + step % STAGES * STAGE;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const u32 at = swizzled(row32 + 32 * i, chunk);
                copy16_async(to + at, from_x[i] + step * 64, row32 + 32 * i < tile.rows);
                copy16_async(to + OPERAND + at, from_w[i] + step * 64, true);
            }
        }
        copy_commit();
    };
    float d[64] = {};
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) issue(s);
    for (int step = 0; step < steps; step++) {
        copy_wait<STAGES - 2>();
        products_see_shared();
        __syncthreads();  // this stage has landed, and all have left the one before
        issue(step + STAGES - 1);
        const unsigned char* stage = shared + step % STAGES * STAGE;
        const Matrix tokens = matrix(stage + warp / 4 * 64 * 128, 16, 1024), rows = matrix(stage + OPERAND, 16, 1024);
        wgmma_fence();
#pragma unroll
        for (int s = 0; s < 4; s++) wgmma(d, advanced(tokens, 32 * s), advanced(rows, 32 * s), true);
        wgmma_commit();
        wgmma_wait<0>();
        hold(d);
    }
    copy_wait<0>();
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int r = warp * 16 + 8 * h + lane / 4;
        if (r < tile.rows) {
            elem* to = y + i64(tile.row0 + r) * outputs + out0 + 2 * (lane % 4);
#pragma unroll
            for (int n = 0; n < (GATED ? 8 : 16); n++) {
                float v[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    v[i] = d[4 * n + 2 * h + i];
                    if (GATED) v[i] = __fdividef(v[i], 1.f + __expf(-v[i])) * d[32 + 4 * n + 2 * h + i];
                }
                store_pair(to + 8 * n, pack_halves(v[0], v[1]));
            }
        }
    }
}
