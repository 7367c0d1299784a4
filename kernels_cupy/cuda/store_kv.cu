// RoPE on q and k at given positions, k and v to given slots, in one pass; with QK_NORM the heads of
// q and k are RMS-normalised first. One warp a (token, head); heads run q, then k, then v.
// Reads and writes (Q + 2H) * D elements a token. Pairs are (i, i + D/2).
#ifndef ELEM  // 0 bfloat16, 1 float16; all three set by kernels_cupy/store_kv.py
#define ELEM 0
#endif
#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif
#ifndef QK_NORM
#define QK_NORM 0
#endif
#include "common/vector.cuh"
#include "common/warp.cuh"

#define HALF (HEAD_DIM / 2)
#define STEPS ((HALF + 63) / 64)  // a lane takes 2 neighbouring pairs a step

// cos and sin of position * inv_freq, made in float64: float32 products lose 0.06 rad at 1e6 positions
extern "C" __global__ void __launch_bounds__(128)
    rope_table(const i64* __restrict__ positions, const float* __restrict__ inv_freq, float scale,
               float* __restrict__ table, int tokens) {  // [tokens, D / 2, 2]: cos, sin
    const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= i64(tokens) * HALF) return;
    const double angle = double(positions[i / HALF]) * double(inv_freq[i % HALF]);
    double s, c;
    sincos(angle, &s, &c);
    table[2 * i] = float(c) * scale;
    table[2 * i + 1] = float(s) * scale;
}

// strides are in elements, of a token
extern "C" __global__ void __launch_bounds__(128)
    rope_store(const elem* __restrict__ q, const elem* __restrict__ k, const elem* __restrict__ v,
               i64 q_stride, i64 k_stride, i64 v_stride, const float* __restrict__ table,
               const i64* __restrict__ slots, elem* __restrict__ q_out, elem* __restrict__ k_pool,
               elem* __restrict__ v_pool, const elem* __restrict__ q_weight,
               const elem* __restrict__ k_weight, float eps, int tokens, int q_heads, int kv_heads) {
    const int heads = q_heads + 2 * kv_heads;
    const i64 work = i64(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
    const i64 t = work / heads;
    if (t >= tokens) return;
    const int lane = threadIdx.x % 32;
    int head = int(work - t * heads);
    const elem* from;
    elem* to;
    const elem* weight = q_weight;
    bool turned = true;
    if (head < q_heads) {
        from = q + t * q_stride + head * HEAD_DIM;
        to = q_out + (t * q_heads + head) * HEAD_DIM;
    } else {
        head -= q_heads;
        turned = head < kv_heads;
        if (!turned) head -= kv_heads;
        from = (turned ? k + t * k_stride : v + t * v_stride) + head * HEAD_DIM;
        if (slots[t] < 0) return;  // a token that only fills a captured step up
        to = (turned ? k_pool : v_pool) + (slots[t] * kv_heads + head) * HEAD_DIM;
        weight = k_weight;
    }
    float low[STEPS][2], high[STEPS][2];
    float squares = 0.f;
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        const int i = 2 * lane + 64 * s;
        if (i < HALF) {
            const u32 a = load_pair(from + i), b = load_pair(from + i + HALF);
            low[s][0] = low_half(a), low[s][1] = high_half(a);
            high[s][0] = low_half(b), high[s][1] = high_half(b);
#pragma unroll
            for (int e = 0; e < 2; e++) squares += low[s][e] * low[s][e] + high[s][e] * high[s][e];
        }
    }
#if QK_NORM
    if (turned) {
        const float scale = rsqrtf(warp_sum(squares) / HEAD_DIM + eps);
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            const int i = 2 * lane + 64 * s;
            if (i < HALF) {
                const u32 a = load_pair(weight + i), b = load_pair(weight + i + HALF);
                low[s][0] *= scale * low_half(a), low[s][1] *= scale * high_half(a);
                high[s][0] *= scale * low_half(b), high[s][1] *= scale * high_half(b);
            }
        }
    }
#endif
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        const int i = 2 * lane + 64 * s;
        if (i < HALF) {
            if (turned) {
                const float4 cs = *reinterpret_cast<const float4*>(table + (t * HALF + i) * 2);
                const float l0 = low[s][0], l1 = low[s][1], h0 = high[s][0], h1 = high[s][1];
                low[s][0] = l0 * cs.x - h0 * cs.y, high[s][0] = h0 * cs.x + l0 * cs.y;
                low[s][1] = l1 * cs.z - h1 * cs.w, high[s][1] = h1 * cs.z + l1 * cs.w;
            }
            store_pair(to + i, pack_halves(low[s][0], low[s][1]));
            store_pair(to + i + HALF, pack_halves(high[s][0], high[s][1]));
        }
    }
}
