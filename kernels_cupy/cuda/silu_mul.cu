// y[t, i] = silu(gate_up[t, i]) * gate_up[t, F + i]. Reads 2F, writes F elements a token; a thread 8.
#ifndef ELEM  // 0 bfloat16, 1 float16; set by kernels_cupy/silu_mul.py
#define ELEM 0
#endif
#include "common/vector.cuh"

extern "C" __global__ void __launch_bounds__(256)
    silu_mul(const elem* __restrict__ gate_up, elem* __restrict__ y, int tokens, int f) {
    const i64 chunk = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    const int each = f / 8;
    const i64 token = chunk / each;
    if (token >= tokens) return;
    const int i = 8 * int(chunk - token * each);
    float gate[8], up[8];
    unpack8(load16(gate_up + token * 2 * f + i), gate);
    unpack8(load16(gate_up + token * 2 * f + f + i), up);
#pragma unroll
    for (int e = 0; e < 8; e++) up[e] *= __fdividef(gate[e], 1.f + __expf(-gate[e]));
    store16(y + token * f + i, pack8(up));
}
