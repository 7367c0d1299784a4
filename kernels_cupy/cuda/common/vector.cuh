// Eight 16-bit elements at a time: one 16-byte access a thread.
#pragma once
#include "common/ptx.cuh"

typedef unsigned short elem;

__device__ __forceinline__ void unpack8(const Vec16& v, float (&x)[8]) {
    x[0] = low_half(v.x), x[1] = high_half(v.x), x[2] = low_half(v.y), x[3] = high_half(v.y);
    x[4] = low_half(v.z), x[5] = high_half(v.z), x[6] = low_half(v.w), x[7] = high_half(v.w);
}
__device__ __forceinline__ Vec16 pack8(const float (&x)[8]) {
    return Vec16{pack_halves(x[0], x[1]), pack_halves(x[2], x[3]), pack_halves(x[4], x[5]),
                 pack_halves(x[6], x[7])};
}
__device__ __forceinline__ Vec16 load16(const elem* p) { return *reinterpret_cast<const Vec16*>(p); }
__device__ __forceinline__ void store16(elem* p, const Vec16& v) { *reinterpret_cast<Vec16*>(p) = v; }
__device__ __forceinline__ u32 load_pair(const elem* p) { return *reinterpret_cast<const u32*>(p); }
__device__ __forceinline__ void store_pair(elem* p, u32 v) { *reinterpret_cast<u32*>(p) = v; }
