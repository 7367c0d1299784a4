// The PTX that our kernels use, one function an instruction. No header of CUDA is needed, so that
// NVRTC alone compiles everything. Under the CPU emulator the same names come from emulate/shim.h.
#pragma once
#ifndef EMULATED

#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct alignas(16) Vec16 { u32 x, y, z, w; };

__device__ __forceinline__ u32 shared_address(const void* p) {
    return static_cast<u32>(__cvta_generic_to_shared(p));
}

// `name`, rounded up to a multiple of `to` bytes as shared memory counts
__device__ __forceinline__ unsigned char* aligned_shared(unsigned char* name, u32 to) {
    return name + (0u - shared_address(name)) % to;
}

#ifndef COPY_AHEAD  // bytes that the L2 fetches around a miss: 64, 128 or 256
#define COPY_AHEAD 128
#endif
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

// 16 bytes from global to shared memory; with `live` false the 16 bytes are zeroed, nothing is read
__device__ __forceinline__ void copy16_async(void* to, const void* from, bool live) {
    asm volatile("cp.async.cg.shared.global.L2::" TEXT(COPY_AHEAD) "B [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(live ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT>
__device__ __forceinline__ void copy_wait() {  // until at most LEFT groups of this thread are under way
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8
__device__ __forceinline__ void load_matrix4(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void load_matrix4_transposed(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// an 8x8 matrix of 16-bit elements held as (row l/4, columns 2(l%4), 2(l%4) + 1), transposed
__device__ __forceinline__ u32 transpose_matrix(u32 x) {
    u32 y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

// d[16x8] += a[16x16] b[16x8]; lane l holds rows l/4 and l/4 + 8, columns 2(l%4) and 2(l%4) + 1 of d
__device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if ELEM == 0
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float low_half(u32 x) {  // element at the lower address
#if ELEM == 0
    return __uint_as_float(x << 16);
#else
    float y;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(y) : "r"(x));
    return y;
#endif
}
__device__ __forceinline__ float high_half(u32 x) {
#if ELEM == 0
    return __uint_as_float(x & 0xffff0000u);
#else
    float y;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h;}" : "=f"(y) : "r"(x));
    return y;
#endif
}
__device__ __forceinline__ u32 pack_halves(float low, float high) {  // rounded to nearest even
    u32 r;
#if ELEM == 0
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
#else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
#endif
    return r;
}

__device__ __forceinline__ float4 load_coherent(const float4* p) {  // past L1: others of this launch wrote it
    float4 v;
    asm volatile("ld.global.cg.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "l"(p)
                 : "memory");
    return v;
}
__device__ __forceinline__ float2 load_coherent(const float2* p) {
    float2 v;
    asm volatile("ld.global.cg.v2.f32 {%0,%1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(p) : "memory");
    return v;
}

// true in the thread that arrives last of `n`; the counter is back at 0 then, for the next replay
__device__ __forceinline__ bool arrive_last(u32* counter, u32 n) {
    u32 before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(counter), "r"(n - 1)
                 : "memory");
    return before == n - 1;
}
#endif
