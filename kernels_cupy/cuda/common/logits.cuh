// A row of logits under a mask, its order, and what a block of 1024 threads does with it. Used by sample.cu,
// sample_bins.cu and sample_wide.cu, which define VECTOR.
#pragma once
#include "common/philox.cuh"
#include "common/vector.cuh"
#include "common/warp.cuh"

#define THREADS 1024
#define CAP 2048
#define BINS 1024
#define RANKED 256  // as many are sorted by counting
#define CHUNK 512       // logits that a warp looks at together
#define MAX_CHUNKS 4096
#define LOG2E 1.4426950408889634f
#define FAR (-1e4f)  // e to the power of it is 0, and 0 times it is 0
#define LOWEST (-__int_as_float(0x7f800000))

struct Row { float temperature, top_p, min_p; int top_k; };

// of a row: its maximum, the sum of e^((x - top) / T), log of that at T = 1, its minimum
struct Facts { float top, total, log_sum, low; };

// what `sample_scan` notes of a chunk; sums of e^d, d e^d and e^(d / T), d the distance to the chunk's maximum
struct Chunk { float top, low, sum, moment, warm, unused[3]; };

// where a row's uniform number comes from: as given, or drawn here by counter
struct Uniforms {
    const double* given;  // null: by counter
    const u64 *seeds, *indexes;

    __device__ __forceinline__ double at(int r) const { return given ? given[r] : uniform_of(seeds[r], indexes[r]); }
};

struct Logits {
    const float* x;
    const u32* mask;  // null: all allowed
    int count;

    __device__ __forceinline__ Logits(const float* logits, const u32* masks, int r, int vocabulary)
        : x(logits + i64(r) * vocabulary), mask(masks ? masks + i64(r) * ((vocabulary + 31) / 32) : nullptr),
          count(vocabulary) {}

    __device__ __forceinline__ bool allowed(int i) const { return !mask || (mask[i / 32] >> (i % 32) & 1); }
    __device__ __forceinline__ int chunks() const { return (count + CHUNK - 1) / CHUNK; }

    // the four logits 4c .. 4c + 3; what is not allowed is LOWEST
    __device__ __forceinline__ void four(int c, float (&v)[4]) const {
        u32 bits = 0;
        float4 f = {0.f, 0.f, 0.f, 0.f};
        if (4 * c < count) {
            bits = mask ? mask[c / 8] >> (c % 8 * 4) & 15 : 15;
#if VECTOR
            f = reinterpret_cast<const float4*>(x)[c];
#else
            const int i = 4 * c;
            if (i + 3 >= count) bits &= 15u >> (i + 4 - count);
            f.x = x[i];
            if (i + 1 < count) f.y = x[i + 1];
            if (i + 2 < count) f.z = x[i + 2];
            if (i + 3 < count) f.w = x[i + 3];
#endif
        }
        v[0] = bits & 1 ? f.x : LOWEST, v[1] = bits & 2 ? f.y : LOWEST;
        v[2] = bits & 4 ? f.z : LOWEST, v[3] = bits & 8 ? f.w : LOWEST;
    }

    // this lane's sixteen of chunk c: v[4j + i] is the logit of id_of(c, lane, 4j + i)
    __device__ __forceinline__ void chunk(int c, int lane, float (&v)[16]) const {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float f[4];
            four(c * (CHUNK / 4) + lane + 32 * j, f);
#pragma unroll
            for (int i = 0; i < 4; i++) v[4 * j + i] = f[i];
        }
    }
    __device__ __forceinline__ static int id_of(int c, int lane, int k) {
        return c * CHUNK + 4 * (lane + 32 * (k / 4)) + k % 4;
    }

    // f(value, id) of every allowed one, this thread's share of the block's
    template <class F>
    __device__ __forceinline__ void each(F f) const {
        for (int c = threadIdx.x / 32; c < chunks(); c += THREADS / 32) {
            float v[16];
            chunk(c, threadIdx.x % 32, v);
#pragma unroll
            for (int k = 0; k < 16; k++)
                if (v[k] > LOWEST) f(v[k], id_of(c, threadIdx.x % 32, k));
        }
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

// larger values first, equal ones by id: ascending order of these numbers
__device__ __forceinline__ u64 rank_of(float x, int id) { return u64(~key_of(x)) << 32 | u32(id); }
__device__ __forceinline__ float value_at(u64 rank) { return value_of(~u32(rank >> 32)); }

// Bins of the distance to the maximum, so narrow that the whole row just fits, but never wider than 1/32: the
// last takes all that lies further. A power of two a unit, so that bounds are exact.
struct Bins {
    float top, a_nat;

    __device__ __forceinline__ explicit Bins(const Facts& f) : top(f.top) {
        const float fits = __uint_as_float(__float_as_uint((BINS - 1) / (f.top - f.low)) & 0xff800000u);
        a_nat = fminf(fmaxf(fits, 32.f), 1048576.f);
    }
    __device__ __forceinline__ int of(float x) const { return int(fminf((top - x) * a_nat, float(BINS - 1))); }
    __device__ __forceinline__ float edge(int bin) const { return -float(bin) / a_nat; }  // x - top at its upper end
};

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
    double until = lane < int(blockDim.x / 32) ? room[lane] : 0.0;  // of warps, each warp for itself
#pragma unroll
    for (int by = 1; by < 32; by <<= 1) {
        const double y = __shfl_up_sync(FULL, until, by);
        if (lane >= by) until += y;
    }
    const double before = __shfl_sync(FULL, until, warp > 0 ? warp - 1 : 0);
    return warp > 0 ? x + before : x;
}

struct Shared {
    u64 list[CAP];
    double scan[32];
    float room[96];
    union {
        double cumulated[CAP];
        float tops[MAX_CHUNKS];
        struct { u32 low[BINS], high[BINS]; };
    };
    double until[BINS];  // masses of the bins up to each
    int start[BINS];     // of each bin in the list
    int count, cut, kept, drawn, first;
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

// the lowest number, ascending with the threads, whose thread says yes; `otherwise` where none does
__device__ __forceinline__ int block_first(bool yes, int number, int otherwise, Shared& s) {
    __syncthreads();
    if (threadIdx.x == 0) s.first = otherwise;
    __syncthreads();
    const u32 vote = __ballot_sync(FULL, yes);
    if (yes && int(threadIdx.x % 32) == __ffs(int(vote)) - 1) atomicMin(&s.first, number);
    __syncthreads();
    return s.first;
}

// the first i below `limit` that holds, two a thread; `limit` where none does
template <class F>
__device__ __forceinline__ int list_first(Shared& s, int limit, F holds) {
    const int a = 2 * threadIdx.x, b = a + 1;
    const bool at_a = a < limit && holds(a), at_b = b < limit && holds(b);
    return block_first(at_a || at_b, at_a ? a : b, limit, s);
}

// a warp adds what is wanted of its chunk to the list, as far as there is room; s.count counts on
template <class F>
__device__ __forceinline__ void list_chunk(Shared& s, const float (&v)[16], int c, F wanted) {
    const int lane = threadIdx.x % 32;
    u32 bits = 0;
#pragma unroll
    for (int k = 0; k < 16; k++)
        if (v[k] > LOWEST && wanted(v[k])) bits |= 1u << k;
    if (!__any_sync(FULL, bits != 0)) return;
    const int mine = __popc(bits);
    int until = mine, base = 0;
#pragma unroll
    for (int by = 1; by < 32; by <<= 1) {
        const int y = __shfl_up_sync(FULL, until, by);
        if (lane >= by) until += y;
    }
    if (lane == 31) base = atomicAdd(&s.count, until);
    int at = __shfl_sync(FULL, base, 31) + until - mine;
#pragma unroll
    for (int k = 0; k < 16; k++)
        if (bits >> k & 1) {
            if (at < CAP) s.list[at] = rank_of(v[k], Logits::id_of(c, lane, k));
            at++;
        }
}

// s.list[0, n), no two of which are equal, ascending; what lies behind it is not kept
__device__ __forceinline__ void sort_list(Shared& s, int n) {
    if (n <= RANKED) {  // each finds its place; two barriers in place of one a step
        const bool live = int(threadIdx.x) < n;
        const u64 mine = live ? s.list[threadIdx.x] : 0;
        int below = 0;
        if (live) {
#pragma unroll 4
            for (int i = 0; i < n; i++) below += s.list[i] < mine;
        }
        __syncthreads();
        if (live) s.list[below] = mine;
        __syncthreads();
        return;
    }
    // bitonic, filled up to a power of two
    int size = 2;
    while (size < n) size <<= 1;
    for (int i = threadIdx.x; i < size; i += THREADS)
        if (i >= n) s.list[i] = ~u64(0);
    __syncthreads();
    for (int run = 2; run <= size; run <<= 1)
        for (int by = run >> 1; by > 0; by >>= 1) {
            for (int i = threadIdx.x; i < size / 2; i += THREADS) {
                const int a = 2 * by * (i / by) + i % by, b = a + by;
                const u64 x = s.list[a], y = s.list[b];
                if ((x > y) == ((a & run) == 0)) s.list[a] = y, s.list[b] = x;
            }
            __syncthreads();
        }
}

// s.cumulated[i]: the weights e^((x - top) / T) of the sorted list's first i + 1
__device__ __forceinline__ void cumulate(Shared& s, int n, float top, float temperature) {
    static_assert(CAP == 2 * THREADS);
    const int a = 2 * threadIdx.x, b = a + 1;
    const double pa = a < n ? exp(double(value_at(s.list[a]) - top) / temperature) : 0.0;
    const double pb = b < n ? exp(double(value_at(s.list[b]) - top) / temperature) : 0.0;
    const double after = block_scan(pa + pb, s.scan);
    s.cumulated[a] = after - pb, s.cumulated[b] = after;
    __syncthreads();
}

// The token on which `uniform` falls, where the sorted and cumulated list has all that can matter. `all` is the
// sum of the weights before top-p; top-k is seen to here.
__device__ __forceinline__ u64 pick_listed(Shared& s, int n, const Row& row, float top, double all, double uniform) {
    int limit = row.top_k > 0 ? min(row.top_k, n) : n;
    if (row.top_k > 0) all = s.cumulated[limit - 1];
    if (row.top_p < 1.f) {  // the first at which the sum reaches top_p is the last to stay
        const double target = double(row.top_p) * all;
        limit = min(limit, list_first(s, limit, [&](int i) { return s.cumulated[i] >= target; }) + 1);
        all = s.cumulated[limit - 1];
    }
    if (row.min_p > 0.f) {
        limit = max(1, list_first(s, limit, [&](int i) {
            return exp(double(value_at(s.list[i]) - top) / row.temperature) < double(row.min_p);
        }));
        all = s.cumulated[limit - 1];
    }
    const double target = uniform * all;
    return s.list[min(list_first(s, limit, [&](int i) { return s.cumulated[i] > target; }), limit - 1)];
}

struct Outputs {
    i64* token;
    float *logprob, *entropy;
    i64* top_ids;
    float* top_logprobs;
    int top_n;

    // of row r: the chosen one, and the n first of the sorted list
    __device__ __forceinline__ void write(int r, u64 chosen, const u64* list, int n, const Facts& f) const {
        if (threadIdx.x == 0) {
            token[r] = i64(u32(chosen));
            logprob[r] = value_at(chosen) - f.top - f.log_sum;
        }
        for (int i = threadIdx.x; i < top_n; i += THREADS) {
            top_ids[i64(r) * top_n + i] = i < n ? i64(u32(list[i])) : 0;
            top_logprobs[i64(r) * top_n + i] = i < n ? value_at(list[i]) - f.top - f.log_sum : LOWEST;
        }
    }
};
