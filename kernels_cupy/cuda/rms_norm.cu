// y = x / sqrt(mean(x^2) + eps) * weight, statistics in float32; with ADD, x + residual is rounded,
// stored to `sum` and normalised. Reads N (ADD: 2N) and writes N (2N) elements a row.
// Row r of x lies at (r / inner) * outer + (r % inner) * N. rms_norm: one block a row. rms_norm_narrow: one warp a row (heads of QK-norm).
#ifndef ELEM  // 0 bfloat16, 1 float16; set by kernels_cupy/rms_norm.py
#define ELEM 0
#endif
#ifndef ADD
#define ADD 0
#endif
#ifndef CHUNKS  // of 8 elements that a thread holds; N <= 8 * CHUNKS * threads
#define CHUNKS 1
#endif
#include "common/vector.cuh"
#include "common/warp.cuh"

template <bool BLOCK>
__device__ __forceinline__ void normalise(const elem* x, const elem* residual, const elem* weight, elem* y,
                                          elem* sum, i64 row, int n, float eps, int lane, int lanes,
                                          float* room, int inner, i64 outer) {
    x += row / inner * outer + row % inner * n;
    float held[CHUNKS][8], w[CHUNKS][8];
    float squares = 0.f;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        const int i = 8 * (lane + c * lanes);
        if (i < n) {
            unpack8(load16(weight + i), w[c]);  // before the sum: it does not depend on it
            unpack8(load16(x + i), held[c]);
#if ADD
            float r[8];
            unpack8(load16(residual + row * n + i), r);
#pragma unroll
            for (int e = 0; e < 8; e++) held[c][e] += r[e];
            const Vec16 rounded = pack8(held[c]);
            store16(sum + row * n + i, rounded);
            unpack8(rounded, held[c]);
#endif
#pragma unroll
            for (int e = 0; e < 8; e++) squares += held[c][e] * held[c][e];
        }
    }
    squares = BLOCK ? block_sum(squares, room) : warp_sum(squares);
    const float scale = rsqrtf(squares / n + eps);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        const int i = 8 * (lane + c * lanes);
        if (i < n) {
#pragma unroll
            for (int e = 0; e < 8; e++) held[c][e] *= scale * w[c][e];
            store16(y + row * n + i, pack8(held[c]));
        }
    }
}

extern "C" __global__ void __launch_bounds__(1024)
    rms_norm(const elem* __restrict__ x, const elem* __restrict__ residual, const elem* __restrict__ weight,
             elem* __restrict__ y, elem* __restrict__ sum, int n, float eps, int inner, i64 outer, int rows) {
    __shared__ float room[32];
    normalise<true>(x, residual, weight, y, sum, blockIdx.x, n, eps, threadIdx.x, blockDim.x, room, inner, outer);
}

extern "C" __global__ void __launch_bounds__(128)
    rms_norm_narrow(const elem* __restrict__ x, const elem* __restrict__ residual,
                    const elem* __restrict__ weight, elem* __restrict__ y, elem* __restrict__ sum, int n,
                    float eps, int inner, i64 outer, int rows) {
    const int row = blockIdx.x * 4 + threadIdx.x / 32;
    if (row >= rows) return;  // whole warps leave
    normalise<false>(x, residual, weight, y, sum, row, n, eps, threadIdx.x % 32, 32, nullptr, inner, outer);
}
