// What the memory gives at best: 16-byte loads, eight in flight a thread. The yardstick of the benchmarks.
#include "common/vector.cuh"

extern "C" __global__ void __launch_bounds__(512) read_all(const Vec16* __restrict__ x, u32* sink, i64 n) {
    const i64 stride = i64(gridDim.x) * blockDim.x;
    u32 seen = 0;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += 8 * stride) {
        Vec16 v[8];
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (i + j * stride < n) v[j] = x[i + j * stride];
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (i + j * stride < n) seen ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    if (seen == 0x12345678u) sink[threadIdx.x] = seen;  // keeps the loads
}

extern "C" __global__ void __launch_bounds__(512) copy_all(const Vec16* __restrict__ x, Vec16* __restrict__ y, i64 n) {
    const i64 stride = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += 4 * stride) {
        Vec16 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (i + j * stride < n) v[j] = x[i + j * stride];
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (i + j * stride < n) y[i + j * stride] = v[j];
    }
}
