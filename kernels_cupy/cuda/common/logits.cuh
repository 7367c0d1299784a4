// A row of logits under a mask, its order, and what a block of 1024 threads does with it. Used by sample.cu
// and sample_wide.cu, which define VECTOR.
#pragma once
#include "common/vector.cuh"
#include "common/warp.cuh"

#define THREADS 1024
#define CAP 2048
#define BINS 1024
#define BINS_A_NAT 32
#define LOG2E 1.4426950408889634f
#define FAR (-1e4f)  // e to the power of it is 0, and 0 times it is 0
#define LOWEST (-__int_as_float(0x7f800000))

struct Row { float temperature, top_p, min_p; int top_k; };

struct Logits {
    const float* x;
    const u32* mask;  // null: all allowed
    int count;

    __device__ __forceinline__ bool allowed(int i) const { return !mask || (mask[i / 32] >> (i % 32) & 1); }

    // f(values, id of the first) of every four logits, this thread's share; what is not allowed is LOWEST
    template <class F>
    __device__ __forceinline__ void each4(F f) const {
        const int chunks = (count + 3) / 4;
        for (int base = threadIdx.x; base < chunks; base += 4 * THREADS) {
            float v[4][4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int c = base + j * THREADS;
                u32 bits = 0;
                float4 four = {0.f, 0.f, 0.f, 0.f};
                if (c < chunks) {
                    bits = mask ? mask[c / 8] >> (c % 8 * 4) & 15 : 15;
#if VECTOR
                    four = reinterpret_cast<const float4*>(x)[c];
#else
                    const int i = 4 * c;
                    if (i + 3 >= count) bits &= 15u >> (i + 4 - count);
                    four.x = x[i];
                    if (i + 1 < count) four.y = x[i + 1];
                    if (i + 2 < count) four.z = x[i + 2];
                    if (i + 3 < count) four.w = x[i + 3];
#endif
                }
                v[j][0] = bits & 1 ? four.x : LOWEST, v[j][1] = bits & 2 ? four.y : LOWEST;
                v[j][2] = bits & 4 ? four.z : LOWEST, v[j][3] = bits & 8 ? four.w : LOWEST;
            }
#pragma unroll
            for (int j = 0; j < 4; j++) f(v[j], 4 * (base + j * THREADS));
        }
    }

    // f(value, id) of every allowed one
    template <class F>
    __device__ __forceinline__ void each(F f) const {
        each4([&](const float (&v)[4], int i) {
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (v[j] > LOWEST) f(v[j], i + j);
        });
    }
};

// order of floats as unsigned integers
__device__ __forceinline__ u32 key_of(float x) {
    const u32 bits = __float_as_uint(x + 0.f);  // -0 equals 0
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float value_of(u32 key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}
__device__ __forceinline__ int bin_of(float x, float top) {
    return int(fminf((top - x) * BINS_A_NAT, float(BINS - 1)));
}

// larger values first, equal ones by id: ascending order of these numbers
__device__ __forceinline__ u64 rank_of(float x, int id) { return u64(~key_of(x)) << 32 | u32(id); }
__device__ __forceinline__ float value_at(u64 rank) { return value_of(~u32(rank >> 32)); }

__device__ __forceinline__ double block_scan(double x, double* room) {  // inclusive, in thread order
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int by = 1; by < 32; by <<= 1) {
        const double y = __shfl_up_sync(FULL, x, by);
        if (lane >= by) x += y;
    }
    __syncthreads();
    if (lane == 31) room[warp] = x;
    __syncthreads();
    double before = 0.0;
    for (int w = 0; w < warp; w++) before += room[w];
    return x + before;
}

struct Shared {
    u64 list[CAP];
    int bins[BINS];
    double scan[32];
    float room[32];
    union {
        double cumulated[CAP];
        struct { u32 low[BINS], high[BINS]; };
    };
    int count, cut, kept, drawn;
    u64 found;
    double before;
};

__device__ __forceinline__ double block_total(double x, Shared& s) {
    x = block_scan(x, s.scan);
    __syncthreads();
    if (threadIdx.x == THREADS - 1) s.scan[0] = x;
    __syncthreads();
    x = s.scan[0];
    __syncthreads();
    return x;
}

__device__ __forceinline__ void sort_ranks(u64* list, int size) {  // bitonic, ascending; size a power of two
    for (int run = 2; run <= size; run <<= 1)
        for (int by = run >> 1; by > 0; by >>= 1) {
            for (int i = threadIdx.x; i < size / 2; i += THREADS) {
                const int a = 2 * by * (i / by) + i % by, b = a + by;
                const u64 x = list[a], y = list[b];
                if ((x > y) == ((a & run) == 0)) list[a] = y, list[b] = x;
            }
            __syncthreads();
        }
}
