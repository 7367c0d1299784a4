// Sums and maxima over a warp and over a block. Every thread gets the result; the order is fixed.
#pragma once
#include "common/ptx.cuh"

#define FULL 0xffffffffu

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes >>= 1) x += __shfl_xor_sync(FULL, x, lanes);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL, x, lanes));
    return x;
}

// COUNT values at once, for two barriers in all; `room` holds 32 floats of shared memory a value; all threads call
template <int COUNT>
__device__ __forceinline__ void block_sums(float (&x)[COUNT], float* room) {
    const int warps = (blockDim.x + 31) / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < COUNT; i++) x[i] = warp_sum(x[i]);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        if (lane == 0) room[32 * i + threadIdx.x / 32] = x[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNT; i++) x[i] = warp_sum(lane < warps ? room[32 * i + lane] : 0.f);
}
template <int COUNT>
__device__ __forceinline__ void block_maxima(float (&x)[COUNT], float* room) {
    const int warps = (blockDim.x + 31) / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < COUNT; i++) x[i] = warp_max(x[i]);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        if (lane == 0) room[32 * i + threadIdx.x / 32] = x[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNT; i++) x[i] = warp_max(lane < warps ? room[32 * i + lane] : -__int_as_float(0x7f800000));
}
__device__ __forceinline__ float block_sum(float x, float* room) {
    float all[1] = {x};
    block_sums(all, room);
    return all[0];
}
__device__ __forceinline__ float block_max(float x, float* room) {
    float all[1] = {x};
    block_maxima(all, room);
    return all[0];
}
