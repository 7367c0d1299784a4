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

// `room` holds 32 floats of shared memory; all threads of the block call
__device__ __forceinline__ float block_sum(float x, float* room) {
    const int warps = (blockDim.x + 31) / 32, lane = threadIdx.x % 32;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_sum(lane < warps ? room[lane] : 0.f);
}
__device__ __forceinline__ float block_max(float x, float* room) {
    const int warps = (blockDim.x + 31) / 32, lane = threadIdx.x % 32;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_max(lane < warps ? room[lane] : -__int_as_float(0x7f800000));
}
