// Random numbers by counter: Philox4x32-10 (Salmon et al., SC 2011), bit for bit those of workbench/engine/philox.py.
#pragma once
#include "common/ptx.cuh"

// a number in [0, 1) with 53 random bits: the draw of `index` under `seed`
__device__ __forceinline__ double uniform_of(u64 seed, u64 index) {
    u32 c0 = u32(index), c1 = u32(index >> 32), c2 = 0, c3 = 0, k0 = u32(seed), k1 = u32(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u64 p0 = u64(0xD2511F53u) * c0, p1 = u64(0xCD9E8D57u) * c2;
        c0 = u32(p1 >> 32) ^ c1 ^ k0, c1 = u32(p1), c2 = u32(p0 >> 32) ^ c3 ^ k1, c3 = u32(p0);
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return double(u64(c0) << 21 ^ c1 >> 11) * (1.0 / 9007199254740992.0);
}
