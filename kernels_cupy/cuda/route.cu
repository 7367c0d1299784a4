// Softmax over a token's router logits, the K largest, and how many tokens each expert got. One warp a
// token; a lane holds the logits of experts lane, lane + 32, … Equal probabilities: the lower id first.
// Reads E logits, writes K ids and weights a token: the routing record that the views show is this output.
#ifndef ELEM  // 0 bfloat16, 1 float16, 2 float32 logits; all set by kernels_cupy/route.py
#define ELEM 0
#endif
#ifndef PER_LANE  // experts / 32, rounded up
#define PER_LANE 4
#endif
#include "common/vector.cuh"
#include "common/warp.cuh"

extern "C" __global__ void __launch_bounds__(128)
    route(const void* __restrict__ logits, i64* __restrict__ experts, float* __restrict__ weights, int tokens,
          int expert_count, int k, int normalise) {
    const int t = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (t >= tokens) return;
    float p[PER_LANE];
    float most = -1e30f;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        const int e = lane + 32 * i;
        const i64 at = i64(t) * expert_count + e;
#if ELEM == 2
        p[i] = e < expert_count ? static_cast<const float*>(logits)[at] : -1e30f;
#else
        p[i] = e < expert_count ? low_half(static_cast<const elem*>(logits)[at]) : -1e30f;
#endif
        most = fmaxf(most, p[i]);
    }
    most = warp_max(most);
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        p[i] = lane + 32 * i < expert_count ? expf(p[i] - most) : -1.f;
        sum += fmaxf(p[i], 0.f);
    }
    const float inverse = 1.f / warp_sum(sum);
    float mine = 0.f, kept = 0.f;  // lane j keeps choice j
    int chosen = 0;
    for (int j = 0; j < k; j++) {
        float best = -1.f;
        int best_expert = expert_count;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++)
            if (p[i] > best) best = p[i], best_expert = lane + 32 * i;
#pragma unroll
        for (int other = 16; other > 0; other >>= 1) {
            const float b = __shfl_xor_sync(FULL, best, other);
            const int e = __shfl_xor_sync(FULL, best_expert, other);
            if (b > best || (b == best && e < best_expert)) best = b, best_expert = e;
        }
#pragma unroll
        for (int i = 0; i < PER_LANE; i++)
            if (lane + 32 * i == best_expert) p[i] = -1.f;
        best *= inverse;
        kept += best;
        if (lane == j) mine = best, chosen = best_expert;
    }
    if (lane < k) {
        experts[i64(t) * k + lane] = chosen;
        weights[i64(t) * k + lane] = normalise ? mine / kept : mine;
    }
}
