// Results of a token's several items (a shared prefix and its own entries, attached segments), merged in their
// order; one warp a (token, query head). Reads parts * (D + 1) float32, writes D elements.
#ifndef ELEM  // 0 bfloat16, 1 float16; both set by kernels_cupy/paged_attention.py
#define ELEM 0
#endif
#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif
#include "common/vector.cuh"

#define NEVER (-__int_as_float(0x7f800000))

// tokens [n], starts [n + 1] into the parts
extern "C" __global__ void __launch_bounds__(128)
    merge_parts(const float* __restrict__ part, const float* __restrict__ part_lse, const int* __restrict__ tokens,
                const int* __restrict__ starts, elem* __restrict__ out, int count, int heads) {
    const int work = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (work >= count * heads) return;
    const int n = work / heads, head = work % heads;
    float o[HEAD_DIM / 32] = {}, top = NEVER, sum = 0.f;
    for (int p = starts[n]; p < starts[n + 1]; p++) {
        const float lse = part_lse[i64(p) * heads + head];
        const float higher = fmaxf(top, lse), base = higher == NEVER ? 0.f : higher;
        const float old = exp2_fast(top - base), fresh = exp2_fast(lse - base);
        sum = sum * old + fresh, top = higher;
        const float* from = part + (i64(p) * heads + head) * HEAD_DIM;
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 64; i++) {
            const float2 x = *reinterpret_cast<const float2*>(from + 64 * i + 2 * lane);
            o[2 * i] = o[2 * i] * old + x.x * fresh, o[2 * i + 1] = o[2 * i + 1] * old + x.y * fresh;
        }
#if HEAD_DIM % 64  // 96: the last 32 elements, one a lane
        o[HEAD_DIM / 32 - 1] = o[HEAD_DIM / 32 - 1] * old + from[HEAD_DIM / 64 * 64 + lane] * fresh;
#endif
    }
    const float inverse = sum > 0.f ? 1.f / sum : 0.f;
    elem* to = out + (i64(tokens[n]) * heads + head) * HEAD_DIM;
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 64; i++)
        store_pair(to + 64 * i + 2 * lane, pack_halves(o[2 * i] * inverse, o[2 * i + 1] * inverse));
#if HEAD_DIM % 64
    to[HEAD_DIM / 64 * 64 + lane] = elem(pack_halves(o[HEAD_DIM / 32 - 1] * inverse, 0.f));
#endif
}
