// Copy entries between slots, all layers in one launch, turning K by a shift of positions given per entry.
// Grid: (entries / (warps a block), layers); one warp moves all heads of K and V of one entry of a layer.
// Moves 4 * H * D elements (2 read, 2 written) an entry and layer. A pool is [L, slots, H, D].
#ifndef ELEM  // 0 bfloat16, 1 float16; all three set by kernels_cupy/move_kv.py
#define ELEM 0
#endif
#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif
#ifndef KV_HEADS
#define KV_HEADS 8
#endif
#include "common/vector.cuh"

#define HALF (HEAD_DIM / 2)
#define PIECES (HEAD_DIM / 16)  // pairs of 16-byte chunks (low half, high half) a head
#define WORK (KV_HEADS * PIECES)
#define STEPS ((WORK + 31) / 32)

__device__ __forceinline__ void turn(Vec16& low, Vec16& high, const float* table) {
    float l[8], h[8];
    unpack8(low, l), unpack8(high, h);
#pragma unroll
    for (int e = 0; e < 8; e += 2) {
        const float4 cs = *reinterpret_cast<const float4*>(table + 2 * e);
        const float l0 = l[e], l1 = l[e + 1];
        l[e] = l0 * cs.x - h[e] * cs.y, h[e] = h[e] * cs.x + l0 * cs.y;
        l[e + 1] = l1 * cs.z - h[e + 1] * cs.w, h[e + 1] = h[e + 1] * cs.z + l1 * cs.w;
    }
    low = pack8(l), high = pack8(h);
}

// `table` [entries, D / 2, 2] holds cos and sin of the shifts; null: no turning
extern "C" __global__ void __launch_bounds__(256)
    move_kv(const elem* k_from, const elem* v_from, elem* k_to, elem* v_to, const i64* __restrict__ src,
            const i64* __restrict__ dst, const float* __restrict__ table, int entries, i64 from_layer,
            i64 to_layer) {
    const int entry = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (entry >= entries) return;
    const int lane = threadIdx.x % 32;
    const i64 from = blockIdx.y * from_layer + src[entry] * (KV_HEADS * HEAD_DIM);
    const i64 to = blockIdx.y * to_layer + dst[entry] * (KV_HEADS * HEAD_DIM);
    Vec16 kl[STEPS], kh[STEPS], vl[STEPS], vh[STEPS];
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        const int w = lane + 32 * s;
        if (WORK % 32 == 0 || w < WORK) {
            const int i = w / PIECES * HEAD_DIM + w % PIECES * 8;
            kl[s] = load16(k_from + from + i), kh[s] = load16(k_from + from + i + HALF);
            vl[s] = load16(v_from + from + i), vh[s] = load16(v_from + from + i + HALF);
        }
    }
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        const int w = lane + 32 * s;
        if (WORK % 32 == 0 || w < WORK) {
            const int i = w / PIECES * HEAD_DIM + w % PIECES * 8;
            if (table) turn(kl[s], kh[s], table + (i64(entry) * HALF + w % PIECES * 8) * 2);
            store16(k_to + to + i, kl[s]), store16(k_to + to + i + HALF, kh[s]);
            store16(v_to + to + i, vl[s]), store16(v_to + to + i + HALF, vh[s]);
        }
    }
}
