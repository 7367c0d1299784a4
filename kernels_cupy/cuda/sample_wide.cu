// The rows that sample_bins left: many equal logits, or a top-k that reaches far. One block a row, exact and slow.
// Each threshold (the top n, top-k, top-p, the draw) is an element at which a sum passes a target; it is found through a
// histogram of masses and a sort of the bin that holds it or, where even that bin is too full (many equal
// logits), by bisection over the values. Returns at once for rows that have been drawn.
#ifndef VECTOR  // 1: rows begin on 16 bytes and hold whole chunks of 4; set by kernels_cupy/sample.py
#define VECTOR 1
#endif
#include "common/logits.cuh"

// the first element, in rank order and not past `last`, at which the sum of weights passes `target`;
// weights are 1 (COUNT) or e^((x - top) / T)
template <bool COUNT>
__device__ __forceinline__ u64 pass_target(const Logits& z, Shared& s, double target, u64 last, float top, float rate) {
    const auto weight = [&](float x) { return COUNT ? 1.f : exp2f((x - top) * rate); };
    u32 low = ~u32(last >> 32), high = key_of(top);  // the element's key lies in [low, high]
    while (low < high) {
        const u32 middle = high - (high - low) / 2;  // do those at or above pass the target?
        double sum = 0.0;
        z.each([&](float x, int i) { if (key_of(x) >= middle && rank_of(x, i) <= last) sum += weight(x); });
        if (block_total(sum, s) > target) low = middle;
        else high = middle - 1;
    }
    double above = 0.0;
    z.each([&](float x, int) { if (key_of(x) > low) above += weight(x); });
    above = block_total(above, s);
    const double each = weight(value_of(low));
    const double steps = (target - above) / (each > 1e-30 ? each : 1e-30);  // of the equals, by id
    int wanted = int(steps > 0.0 ? (steps < 1e9 ? steps : 1e9) : 0.0);
    const int share = (z.count + THREADS - 1) / THREADS;
    const int first = threadIdx.x * share, stop = min(first + share, z.count);
    const auto equal = [&](int i) { return z.allowed(i) && key_of(z.x[i]) == low && rank_of(z.x[i], i) <= last; };
    int mine = 0;
    for (int i = first; i < stop; i++) mine += equal(i);
    const int until = int(block_scan(double(mine), s.scan)), all = int(block_total(double(mine), s));
    wanted = min(wanted, all - 1);
    if (wanted >= until - mine && wanted < until) {
        int left = wanted - (until - mine), i = first;
        while (!equal(i) || left-- > 0) i++;
        s.found = rank_of(value_of(low), i);
    }
    __syncthreads();
    const u64 found = s.found;
    __syncthreads();
    return found;
}

// the same through a histogram of masses, where the bin that holds the element has at most CAP elements; else ~0
template <bool COUNT>
__device__ __forceinline__ u64 pass_target_by_bins(const Logits& z, Shared& s, double target, u64 last, const Bins& bins,
                                                   float rate) {
    const int bin = threadIdx.x;
    const float top = bins.top;
    const auto base = [&](int b) { return bins.edge(b) * rate; };  // log2 of the bin's largest weight
    s.low[bin] = s.high[bin] = 0;
    __syncthreads();
    z.each([&](float x, int i) {
        if (rank_of(x, i) > last) return;
        const int b = bins.of(x);
        if (COUNT) {
            atomicAdd(&s.low[b], 1u);
        } else {  // fixed point: sums that do not depend on their order
            const u32 share = u32(fminf(exp2_fast((x - top) * rate - base(b)), 1.f) * 4294967040.f);
            atomicAdd(&s.low[b], share & 0xffffu);
            atomicAdd(&s.high[b], share >> 16);
        }
    });
    __syncthreads();
    const double mass =
        COUNT ? double(s.low[bin])
              : (double(s.low[bin]) + 65536.0 * double(s.high[bin])) / 4294967040.0 * exp2(double(base(bin)));
    const double until = block_scan(mass, s.scan);
    if (bin == 0) s.cut = BINS, s.kept = 0, s.count = 0;
    __syncthreads();
    if (until > target && mass > 0.0) atomicMin(&s.cut, bin);
    __syncthreads();
    if (s.cut == BINS && mass > 0.0) atomicMax(&s.kept, bin);  // all of it falls short by rounding: the last
    __syncthreads();
    const int here = s.cut == BINS ? s.kept : s.cut;
    if (bin == here) s.before = until - mass;
    __syncthreads();
    const double before = s.before;
    z.each([&](float x, int i) {
        if (bins.of(x) == here && rank_of(x, i) <= last) {
            const int at = atomicAdd(&s.count, 1);
            if (at < CAP) s.list[at] = rank_of(x, i);
        }
    });
    __syncthreads();
    if (s.count > CAP) return ~u64(0);
    const int n = s.count;
    sort_list(s, n);
    const int a = 2 * bin, b = a + 1;
    const auto weight = [&](int i) {
        return i >= n ? 0.0 : COUNT ? 1.0 : double(exp2f((value_at(s.list[i]) - top) * rate));
    };
    const double wb = weight(b), after = before + block_scan(weight(a) + wb, s.scan);
    if (bin == 0) s.drawn = n - 1;
    __syncthreads();
    if (a < n && after - wb > target) atomicMin(&s.drawn, a);
    if (b < n && after > target) atomicMin(&s.drawn, b);
    __syncthreads();
    const u64 found = s.list[s.drawn];
    __syncthreads();
    return found;
}

template <bool COUNT>
__device__ __noinline__ u64 pass(const Logits& z, Shared& s, double target, u64 last, const Bins& bins, float rate) {
    const u64 found = pass_target_by_bins<COUNT>(z, s, target, last, bins, rate);
    return found != ~u64(0) ? found : pass_target<COUNT>(z, s, target, last, bins.top, rate);
}

// the top n into s.list, sorted; how many
__device__ __forceinline__ int list_top(const Logits& z, Shared& s, int top_n, const Bins& bins, float rate) {
    double possible = 0.0;
    z.each([&](float, int) { possible += 1.0; });
    const int n = min(max(1, top_n), int(block_total(possible, s)));
    const u64 nth = pass<true>(z, s, n - 0.5, rank_of(-3.4e38f, 0x7fffffff), bins, rate);
    if (threadIdx.x == 0) s.count = 0;
    __syncthreads();
    z.each([&](float x, int i) { if (rank_of(x, i) <= nth) s.list[atomicAdd(&s.count, 1)] = rank_of(x, i); });
    __syncthreads();
    sort_list(s, n);
    return n;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sample_wide(const float* __restrict__ logits, const u32* __restrict__ masks, const Row* __restrict__ rows,
                const double* __restrict__ uniforms, const u64* __restrict__ seeds, const u64* __restrict__ indexes,
                i64* __restrict__ token, float* __restrict__ logprob, i64* __restrict__ top_ids,
                float* __restrict__ top_logprobs, const int* __restrict__ state, const Facts* __restrict__ facts,
                int vocabulary, int top_n) {
    const int r = blockIdx.x;
    if (state[r] < 2) return;
    DYNAMIC_SHARED(raw);
    Shared& s = *reinterpret_cast<Shared*>(raw);
    const Row row = rows[r];
    const Logits z(logits, masks, r, vocabulary);
    const Outputs out{token, logprob, nullptr, top_ids, top_logprobs, top_n};
    const Facts f = facts[r];
    const Bins bins(f);
    const float rate = row.temperature <= 0.f ? LOG2E : LOG2E / row.temperature;
    const int n = list_top(z, s, top_n, bins, rate);
    const u64 best = s.list[0];
    out.write(r, best, s.list, n, f);
    if (row.temperature <= 0.f) return;
    const u64 all = rank_of(-3.4e38f, 0x7fffffff);
    u64 last = all;
    const auto mass = [&] {
        double sum = 0.0;
        z.each([&](float x, int i) { if (rank_of(x, i) <= last) sum += exp2f((x - f.top) * rate); });
        return block_total(sum, s);
    };
    if (row.top_k > 0 && row.top_k < z.count) last = pass<true>(z, s, row.top_k - 0.5, last, bins, rate);
    if (row.top_p < 1.f) last = pass<false>(z, s, row.top_p * (last == all ? double(f.total) : mass()), last, bins, rate);
    if (row.min_p > 0.f) {
        const u64 least = rank_of(f.top + logf(row.min_p) * row.temperature, 0x7fffffff);
        if (least < last) last = least;
    }
    const double whole = last == all ? double(f.total) : mass();
    const u64 chosen = pass<false>(z, s, Uniforms{uniforms, seeds, indexes}.at(r) * whole, last, bins, rate);
    if (threadIdx.x == 0) token[r] = i64(u32(chosen)), logprob[r] = value_at(chosen) - f.top - f.log_sum;
}
