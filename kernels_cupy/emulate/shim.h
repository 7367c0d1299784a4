// CUDA built-ins on a CPU: one fiber a thread, blocks in sequence. Executes our .cu files as they are,
// tensor-core instructions included, so that tests need no GPU. It is strict where a GPU is lenient:
// an asynchronous copy lands only when it is waited for, and shared memory starts as NaN.
#pragma once
#define EMULATED 1
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>
#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __grid_constant__
#define __noinline__ __attribute__((noinline))
#define __shared__ static
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __ldg(p) (*(p))

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
struct alignas(16) Vec16 { u32 x, y, z, w; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };

namespace emulate {
struct Copy { void* to; const void* from; bool live; };
struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    unsigned index = 0;
    bool done = false;
    u64 warp_turn = 0, block_turn = 0;
    std::deque<std::vector<Copy>> groups;
    std::vector<Copy> open;
};
struct Warp {
    unsigned size = 0;
    u64 turn = 0;
    unsigned arrived = 0;
    alignas(16) unsigned char room[2][32][32];
};
inline std::vector<Fiber> fibers;
inline std::vector<Warp> warps;
inline std::vector<unsigned char> dynamic;
inline Fiber* now;
inline ucontext_t home;
inline u64 block_turn, progress;
inline unsigned block_arrived, block_alive;
inline dim3 grid, block;
struct Place { unsigned x, y, z; };
inline Place block_index, thread_index;

inline void yield() { swapcontext(&now->context, &home); }
inline void* dynamic_shared() {
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(dynamic.data()) + 127) & ~uintptr_t(127));
}
// every lane of the warp brings up to 32 bytes; returns what all brought
inline unsigned char (*warp_exchange(const void* mine, size_t bytes))[32] {
    Warp& w = warps[now->index / 32];
    const u64 turn = now->warp_turn++;
    unsigned char(*room)[32] = w.room[turn & 1];
    std::memcpy(room[now->index % 32], mine, bytes);
    if (++w.arrived == w.size) { w.arrived = 0; w.turn++; progress++; }
    while (w.turn <= turn) yield();
    return room;
}
inline void block_barrier() {
    const u64 turn = now->block_turn++;
    if (++block_arrived == block_alive) { block_arrived = 0; block_turn++; progress++; }
    while (block_turn <= turn) yield();
}
template <class T> inline T shuffle(T value, unsigned from) {
    static_assert(sizeof(T) <= 32);
    unsigned char(*room)[32] = warp_exchange(&value, sizeof(T));
    T result;
    std::memcpy(&result, room[from % 32], sizeof(T));
    return result;
}
template <class... A, size_t... I>
inline void call(void (*f)(A...), void** argv, std::index_sequence<I...>) {
    f(*static_cast<std::remove_reference_t<A>*>(argv[I])...);
}
template <class... A> struct Launch {
    static inline void (*entry)(A...);
    static inline void** argv;
    static void main() {
        call(entry, argv, std::index_sequence_for<A...>{});
        now->done = true;
        progress++;
        if (--block_alive && block_arrived == block_alive) { block_arrived = 0; block_turn++; }
        swapcontext(&now->context, &home);
    }
    static int run_block() {
        const unsigned n = block.x * block.y * block.z;
        block_turn = 0, block_arrived = 0, block_alive = n;
        warps.assign((n + 31) / 32, Warp());
        for (unsigned i = 0; i < n; i++) {
            warps[i / 32].size++;
            Fiber& f = fibers[i];
            f.index = i, f.done = false, f.warp_turn = f.block_turn = 0;
            f.groups.clear(), f.open.clear();
            if (f.stack.empty()) f.stack.resize(64 << 10);
            getcontext(&f.context);
            f.context.uc_stack.ss_sp = f.stack.data();
            f.context.uc_stack.ss_size = f.stack.size();
            f.context.uc_link = nullptr;
            makecontext(&f.context, main, 0);
        }
        for (unsigned idle = 0; block_alive;) {
            const u64 before = progress;
            for (unsigned i = 0; i < n; i++) {
                if (fibers[i].done) continue;
                now = &fibers[i];
                thread_index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
                swapcontext(&home, &now->context);
            }
            idle = progress == before ? idle + 1 : 0;
            if (idle > 2) return 1;  // every thread waits for another: a barrier that not all reach
        }
        return 0;
    }
    static int run(void (*f)(A...), const unsigned* g, const unsigned* b, unsigned shared, void** args) {
        entry = f, argv = args, grid = {g[0], g[1], g[2]}, block = {b[0], b[1], b[2]};
        if (fibers.size() < size_t(b[0]) * b[1] * b[2]) fibers.resize(size_t(b[0]) * b[1] * b[2]);
        for (unsigned z = 0; z < g[2]; z++)
            for (unsigned y = 0; y < g[1]; y++)
                for (unsigned x = 0; x < g[0]; x++) {
                    dynamic.assign(shared + 128, 0xff);
                    block_index = {x, y, z};
                    if (int failed = run_block()) return failed;
                }
        return 0;
    }
};
template <class... A>
int launch(void (*f)(A...), const unsigned* g, const unsigned* b, unsigned shared, void** args) {
    return Launch<A...>::run(f, g, b, shared, args);
}
inline float bf16_value(uint16_t h) {
    u32 bits = u32(h) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
inline uint16_t bf16_bits(float f) {
    u32 bits;
    std::memcpy(&bits, &f, 4);
    if (std::isnan(f)) return 0x7fff;
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float fp16_value(uint16_t h) {
    _Float16 x;
    std::memcpy(&x, &h, 2);
    return float(x);
}
inline uint16_t fp16_bits(float f) {
    _Float16 x = _Float16(f);
    uint16_t h;
    std::memcpy(&h, &x, 2);
    return h;
}
#if defined(ELEM) && ELEM == 1
inline float value(uint16_t h) { return fp16_value(h); }
inline uint16_t bits(float f) { return fp16_bits(f); }
#else
inline float value(uint16_t h) { return bf16_value(h); }
inline uint16_t bits(float f) { return bf16_bits(f); }
#endif
}  // namespace emulate

#define threadIdx emulate::thread_index
#define blockIdx emulate::block_index
#define blockDim emulate::block
#define gridDim emulate::grid
#define DYNAMIC_SHARED(name) unsigned char* name = static_cast<unsigned char*>(emulate::dynamic_shared())

inline unsigned char* aligned_shared(unsigned char* p, u32 to) {
    return p + (0 - reinterpret_cast<uintptr_t>(p)) % to;
}
inline void __syncthreads() { emulate::block_barrier(); }
inline void __syncwarp(unsigned = ~0u) { int x = 0; emulate::warp_exchange(&x, 4); }
inline void __threadfence() {}
template <class T> inline T __shfl_sync(unsigned, T v, int from) { return emulate::shuffle(v, from); }
template <class T> inline T __shfl_xor_sync(unsigned, T v, int m) {
    return emulate::shuffle(v, emulate::now->index % 32 ^ m);
}
template <class T> inline T __shfl_up_sync(unsigned, T v, int by) {
    const int lane = emulate::now->index % 32;
    return emulate::shuffle(v, lane >= by ? lane - by : lane);
}
template <class T> inline T __shfl_down_sync(unsigned, T v, int by) {
    const int lane = emulate::now->index % 32;
    return emulate::shuffle(v, lane + by < 32 ? lane + by : lane);
}
inline u32 __ballot_sync(unsigned, int yes) {
    u32 result = 0;
    unsigned char(*room)[32] = emulate::warp_exchange(&yes, 4);
    for (int i = 0; i < 32; i++) {
        int v;
        std::memcpy(&v, room[i], 4);
        result |= u32(v != 0) << i;
    }
    return result;
}
inline int __any_sync(unsigned m, int yes) { return __ballot_sync(m, yes) != 0; }
inline u32 __reduce_max_sync(unsigned, u32 x) {
    for (int by = 16; by > 0; by >>= 1) { const u32 y = __shfl_xor_sync(~0u, x, by); x = y > x ? y : x; }
    return x;
}
inline u32 __reduce_min_sync(unsigned m, u32 x) { return ~__reduce_max_sync(m, ~x); }
inline int __popc(u32 x) { return __builtin_popcount(x); }
inline int __popcll(u64 x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline u32 __umulhi(u32 a, u32 b) { return u32(u64(a) * b >> 32); }
inline float __uint_as_float(u32 x) { float f; std::memcpy(&f, &x, 4); return f; }
inline u32 __float_as_uint(float f) { u32 x; std::memcpy(&x, &f, 4); return x; }
inline float __int_as_float(int x) { float f; std::memcpy(&f, &x, 4); return f; }
inline int __float_as_int(float f) { int x; std::memcpy(&x, &f, 4); return x; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
template <class T> inline T atomicAdd(T* p, T v) { T old = *p; *p = T(old + v); return old; }
inline u32 atomicMax(u32* p, u32 v) { u32 old = *p; if (v > old) *p = v; return old; }
inline u64 atomicMax(u64* p, u64 v) { u64 old = *p; if (v > old) *p = v; return old; }

inline int atomicMin(int* p, int v) { int old = *p; if (v < old) *p = v; return old; }
inline int atomicMax(int* p, int v) { int old = *p; if (v > old) *p = v; return old; }

inline void copy16_async(void* to, const void* from, bool live) { emulate::now->open.push_back({to, from, live}); }
inline void copy_commit() {
    emulate::now->groups.push_back(std::move(emulate::now->open));
    emulate::now->open.clear();
}
template <int LEFT> inline void copy_wait() {
    auto& groups = emulate::now->groups;
    for (; groups.size() > LEFT; groups.pop_front())
        for (const emulate::Copy& c : groups.front()) {
            if (c.live) std::memcpy(c.to, c.from, 16);
            else std::memset(c.to, 0, 16);
        }
}
// barriers; copies that are to arrive land at once
struct Barrier { uint16_t pending, count; u32 phase; };
inline void barrier_init(Barrier* b, u32 n) { *b = {uint16_t(n), uint16_t(n), 0}; }
inline void barrier_arrive(Barrier* b) {
    if (--b->pending == 0) b->pending = b->count, b->phase++, emulate::progress++;
}
inline void barrier_wait(Barrier* b, int phase) {
    while ((b->phase & 1) == u32(phase & 1)) emulate::yield();
}
inline void copies_arrive(Barrier* b) {
    copy_commit();
    copy_wait<0>();
    barrier_arrive(b);
}
namespace emulate {
struct Named { u32 arrived; u64 turn; };
inline Named named[16];
inline u64 arrive(int id, u32 n) {
    const u64 turn = named[id].turn;
    if (++named[id].arrived == n) named[id].arrived = 0, named[id].turn++, progress++;
    return turn;
}
}  // namespace emulate
inline void named_arrive(int id, int n) { emulate::arrive(id, n); }
inline void named_sync(int id, int n) {
    const u64 turn = emulate::arrive(id, n);
    while (emulate::named[id].turn == turn) emulate::yield();
}
template <int> inline void registers_down() {}
template <int> inline void registers_up() {}
inline void load_matrix4(u32 (&r)[4], const void* row) {
    const int lane = emulate::now->index % 32;
    unsigned char(*room)[32] = emulate::warp_exchange(&row, 8);
    for (int m = 0; m < 4; m++) {
        const char* p;
        std::memcpy(&p, room[8 * m + lane / 4], 8);
        std::memcpy(&r[m], p + 4 * (lane % 4), 4);
    }
}
inline void load_matrix4_transposed(u32 (&r)[4], const void* row) {
    const int lane = emulate::now->index % 32;
    unsigned char(*room)[32] = emulate::warp_exchange(&row, 8);
    for (int m = 0; m < 4; m++) {
        u32 half[2];
        for (int i = 0; i < 2; i++) {
            const char* p;
            uint16_t h;
            std::memcpy(&p, room[8 * m + 2 * (lane % 4) + i], 8);
            std::memcpy(&h, p + 2 * (lane / 4), 2);
            half[i] = h;
        }
        r[m] = half[0] | half[1] << 16;
    }
}
inline u32 transpose_matrix(u32 x) {
    const int lane = emulate::now->index % 32;
    unsigned char(*room)[32] = emulate::warp_exchange(&x, 4);
    u32 half[2];
    for (int i = 0; i < 2; i++) {
        uint16_t h;
        std::memcpy(&h, room[(2 * (lane % 4) + i) * 4 + lane / 4 / 2] + 2 * (lane / 4 & 1), 2);
        half[i] = h;
    }
    return half[0] | half[1] << 16;
}
inline float4 load_coherent(const float4* p) { return *p; }
inline float2 load_coherent(const float2* p) { return *p; }
inline void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    struct Part { u32 a[4], b[2]; } mine{{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const int lane = emulate::now->index % 32;
    unsigned char(*room)[32] = emulate::warp_exchange(&mine, sizeof mine);
    float sum[4] = {d[0], d[1], d[2], d[3]};
    for (int k = 0; k < 16; k++) {
        const int pair = k % 8 / 2, shift = 16 * (k & 1), upper = k / 8;
        Part rows, columns[2];
        std::memcpy(&rows, room[lane / 4 * 4 + pair], sizeof(Part));
        std::memcpy(&columns[0], room[(2 * (lane % 4)) * 4 + pair], sizeof(Part));
        std::memcpy(&columns[1], room[(2 * (lane % 4) + 1) * 4 + pair], sizeof(Part));
        const float a0 = emulate::value(uint16_t(rows.a[2 * upper] >> shift));
        const float a8 = emulate::value(uint16_t(rows.a[2 * upper + 1] >> shift));
        for (int c = 0; c < 2; c++) {
            const float b = emulate::value(uint16_t(columns[c].b[upper] >> shift));
            sum[c] += a0 * b;
            sum[2 + c] += a8 * b;
        }
    }
    for (int i = 0; i < 4; i++) d[i] = sum[i];
}
// warpgroup products, done when issued
struct Matrix { uintptr_t p; u32 lead, stride; };
inline Matrix matrix(const void* p, u32 lead, u32 stride) { return {reinterpret_cast<uintptr_t>(p), lead, stride}; }
inline Matrix advanced(Matrix m, u32 bytes) { m.p += bytes; return m; }
inline void wgmma_fence() {}
inline void wgmma_commit() {}
template <int LEFT> inline void wgmma_wait() {}
inline void products_see_shared() {}
template <int COUNT> inline void hold(float (&)[COUNT]) {}
namespace emulate {
inline float swizzled_value(uintptr_t at) {
    uint16_t h;
    std::memcpy(&h, reinterpret_cast<void*>(at ^ (at >> 7 & 7) << 4), 2);
    return value(h);
}
inline float by_row(const Matrix& m, int row, int k) { return swizzled_value(m.p + row / 8 * m.stride + row % 8 * 128 + 2 * k); }
inline float by_column(const Matrix& m, int k, int n) {
    return swizzled_value(m.p + n / 64 * m.lead + k / 8 * m.stride + k % 8 * 128 + n % 64 * 2);
}
template <int COUNT, class B>
inline void wgmma(float (&d)[COUNT], const float (&a)[2][16], bool add, B b) {
    const int lane = now->index % 32;
    for (int i = 0; i < COUNT; i++) {
        float sum = add ? d[i] : 0.f;
        for (int k = 0; k < 16; k++) sum += a[i / 2 % 2][k] * b(k, i / 4 * 8 + 2 * (lane % 4) + i % 2);
        d[i] = sum;
    }
}
}  // namespace emulate
template <int COUNT> inline void wgmma(float (&d)[COUNT], Matrix a, Matrix b, bool add) {
    const int lane = emulate::now->index % 32, warp = emulate::now->index / 32 % 4;
    float rows[2][16];
    for (int h = 0; h < 2; h++)
        for (int k = 0; k < 16; k++) rows[h][k] = emulate::by_row(a, 16 * warp + 8 * h + lane / 4, k);
    emulate::wgmma(d, rows, add, [&](int k, int n) { return emulate::by_row(b, n, k); });
    __syncwarp();
}
template <int COUNT> inline void wgmma(float (&d)[COUNT], const u32 (&a)[4], Matrix b, bool add) {
    const int lane = emulate::now->index % 32;
    unsigned char(*room)[32] = emulate::warp_exchange(a, 16);
    float rows[2][16];
    for (int h = 0; h < 2; h++)
        for (int k = 0; k < 16; k++) {
            u32 x;
            std::memcpy(&x, room[lane / 4 * 4 + k % 8 / 2] + 4 * (2 * (k / 8) + h), 4);
            rows[h][k] = k & 1 ? emulate::value(uint16_t(x >> 16)) : emulate::value(uint16_t(x));
        }
    emulate::wgmma(d, rows, add, [&](int k, int n) { return emulate::by_column(b, k, n); });
}
inline float exp2_fast(float x) { return std::exp2(x); }
inline float low_half(u32 x) { return emulate::value(uint16_t(x)); }
inline float high_half(u32 x) { return emulate::value(uint16_t(x >> 16)); }
inline u32 pack_halves(float low, float high) { return emulate::bits(low) | u32(emulate::bits(high)) << 16; }
inline bool arrive_last(u32* counter, u32 n) {
    const u32 before = *counter;
    *counter = before >= n - 1 ? 0 : before + 1;
    return before == n - 1;
}
