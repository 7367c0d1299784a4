// Softmax over a token's router logits, the K largest, and how many tokens each expert got. One warp a
// token; a lane holds the logits of experts lane, lane + 32, … Equal probabilities: the lower id first. A
// choice is two reductions of the warp in hardware: the highest probability, then the lowest id that has it.
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
    u32 key[PER_LANE];  // of the probability, ascending with it; 0: no longer to be had
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        const bool live = lane + 32 * i < expert_count;
        p[i] = live ? expf(p[i] - most) : 0.f;
        sum += p[i];
        key[i] = live ? __float_as_uint(p[i]) + 1 : 0;
    }
    const float inverse = 1.f / warp_sum(sum);
    float mine = 0.f, kept = 0.f;  // lane j keeps choice j
    int chosen = 0;
    for (int j = 0; j < k; j++) {
        u32 best = key[0];
        int best_expert = lane;
#pragma unroll
        for (int i = 1; i < PER_LANE; i++)
            if (key[i] > best) best = key[i], best_expert = lane + 32 * i;
        const u32 highest = __reduce_max_sync(FULL, best);
        const int expert = int(__reduce_min_sync(FULL, best == highest ? u32(best_expert) : ~0u));
#pragma unroll
        for (int i = 0; i < PER_LANE; i++)
            if (lane + 32 * i == expert) key[i] = 0;
        const float share = __uint_as_float(highest - 1) * inverse;
        kept += share;
        if (lane == j) mine = share, chosen = expert;
    }
    if (lane < k) {
        experts[i64(t) * k + lane] = chosen;
        weights[i64(t) * k + lane] = normalise ? mine / kept : mine;
    }
}
