// Barriers in shared memory (mbarrier), on which copies arrive when they land, and named block barriers.
// Under the CPU emulator the same names come from emulate/shim.h.
#pragma once
#include "common/ptx.cuh"

#ifndef EMULATED
typedef u64 Barrier;

__device__ __forceinline__ void barrier_init(Barrier* b, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_arrive(Barrier* b) {
    asm volatile("{.reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%0];}" ::"r"(shared_address(b)) : "memory");
}
// until phase `phase` (0, 1, 2, … counted from the start) is over
__device__ __forceinline__ void barrier_wait(Barrier* b, int phase) {
    asm volatile(
        "{.reg .pred done; again%=: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @!done bra again%=;}" ::"r"(shared_address(b)),
        "r"(phase & 1)
        : "memory");
}
// one arrival, when all copies that this thread has issued so far have landed
__device__ __forceinline__ void copies_arrive(Barrier* b) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(b)) : "memory");
}
__device__ __forceinline__ void named_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// registers a thread of this warpgroup, all of which calls: given back, or taken over from those who gave
template <int COUNT>
__device__ __forceinline__ void registers_down() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT)); }
template <int COUNT>
__device__ __forceinline__ void registers_up() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT)); }
#endif
#endif
