// Where an entry of a request lies: page of its block table, slot of the pool.
#pragma once
#include "common/ptx.cuh"

// a token's ancestors in its tree, of halves [T, 2]: bit i is set where it reads the request's i-th new token
__device__ __forceinline__ u64 ancestors_of(const u32* halves, int token) {
    return u64(halves[2 * token]) | u64(halves[2 * token + 1]) << 32;
}

struct Paging {
    int size, log2;  // log2 < 0: the page size is no power of two

    __device__ __forceinline__ int page(int entry) const { return log2 >= 0 ? entry >> log2 : entry / size; }
    __device__ __forceinline__ u32 slot(int page, int entry) const {
        return log2 >= 0 ? (u32(page) << log2) | (u32(entry) & (u32(size) - 1)) : u32(page) * size + u32(entry % size);
    }
};
