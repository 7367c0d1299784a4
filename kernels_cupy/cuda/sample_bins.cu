// The rows that `sample` left undecided: flat distributions. sample_bins, several blocks a row, counts and weighs
// the logits by their distance to the maximum; sample_pick's blocks see from that in which bins top-p's last
// token, the drawn one and the top n lie and collect these bins alone, each from its share of the row; the last
// of a row's blocks to arrive sorts them. A row of which even they hold more than CAP (many equal logits), or
// whose top-k reaches far, is left to sample_wide.
#ifndef VECTOR  // 1: rows begin on 16 bytes and hold whole chunks of 4; set by kernels_cupy/sample.py
#define VECTOR 1
#endif
#include "common/logits.cuh"

#define BIN_THREADS 512
#define STEPS 16383.f  // of a logit's place between its bin's least and largest weight; the sum fits in 32 bits

// weights of a bin lie in (least, 1] times its largest; in the last, which has no end, in (0, 1]
__device__ __forceinline__ float least_weight(const Bins& bins, int bin, float rate) {
    return bin == BINS - 1 ? 0.f : exp2_fast(-rate / bins.a_nat);
}

// grid: (blocks a row, rows). histograms [R, blocks, 2, BINS]: counts, and sums of places
extern "C" __global__ void __launch_bounds__(BIN_THREADS, 2)
    sample_bins(const float* __restrict__ logits, const u32* __restrict__ masks, const Row* __restrict__ rows,
                const int* __restrict__ state, const Facts* __restrict__ facts, u32* __restrict__ histograms,
                int vocabulary) {
    const int r = blockIdx.y, lane = threadIdx.x % 32, warps = BIN_THREADS / 32;
    if (state[r] != 2) return;
    __shared__ u32 counts[BINS], places[BINS];
    const Row row = rows[r];
    const Logits z(logits, masks, r, vocabulary);
    const Bins bins(facts[r]);
    const float rate = row.temperature > 0.f ? LOG2E / row.temperature : LOG2E;
    const float least = least_weight(bins, 0, rate), scale = STEPS / (1.f - least);
    for (int i = threadIdx.x; i < BINS; i += BIN_THREADS) counts[i] = places[i] = 0;
    __syncthreads();
    for (int c = blockIdx.x * warps + threadIdx.x / 32; c < z.chunks(); c += gridDim.x * warps) {
        float v[16];
        z.chunk(c, lane, v);
#pragma unroll
        for (int k = 0; k < 16; k++)
            if (v[k] > LOWEST) {
                const int bin = bins.of(v[k]);
                const float weight = exp2_fast((v[k] - bins.top - bins.edge(bin)) * rate);
                const float place = bin == BINS - 1 ? weight * STEPS : (weight - least) * scale;
                atomicAdd(&counts[bin], 1u);
                atomicAdd(&places[bin], u32(fminf(fmaxf(place + 0.5f, 0.f), STEPS)));
            }
    }
    __syncthreads();
    u32* to = histograms + (i64(r) * gridDim.x + blockIdx.x) * 2 * BINS;
    for (int i = threadIdx.x; i < BINS; i += BIN_THREADS) to[i] = counts[i], to[BINS + i] = places[i];
}

// The token on which `uniform` falls, of a sorted and cumulated list that holds all of some bins: s.until
// says what lies before each bin, s.start where it begins in the list. `last` is the bin in which top-p or
// min-p ends the distribution, BINS where neither does.
__device__ __forceinline__ u64 pick_from_bins(Shared& s, int n, const Row& row, const Bins& bins, int last, double uniform) {
    const auto until = [&](int i) {  // weights of all logits up to the list's i
        const int bin = bins.of(value_at(s.list[i])), start = s.start[bin];
        return (bin > 0 ? s.until[bin - 1] : 0.0) + s.cumulated[i] - (start > 0 ? s.cumulated[start - 1] : 0.0);
    };
    int limit = n;
    double kept = s.until[BINS - 1];
    if (last < BINS) {
        const double target = double(row.top_p) * kept;
        const int start = s.start[last];
        const auto inside = [&](int i) { return i >= start && bins.of(value_at(s.list[i])) == last; };
        const int stop = list_first(s, n, [&](int i) { return i >= start && !inside(i); });
        limit = stop;
        if (row.top_p < 1.f) limit = min(stop, list_first(s, stop, [&](int i) { return inside(i) && until(i) >= target; }) + 1);
        if (row.min_p > 0.f)
            limit = min(limit, list_first(s, stop, [&](int i) {
                return inside(i) && exp(double(value_at(s.list[i]) - bins.top) / row.temperature) < double(row.min_p);
            }));
        kept = limit > start ? until(limit - 1) : last > 0 ? s.until[last - 1] : 0.0;
    }
    const double target = uniform * kept;
    return s.list[min(list_first(s, limit, [&](int i) { return until(i) > target; }), limit - 1)];
}

// What a row's blocks have listed, all `n` of them, in the list of the last to arrive: true there alone.
__device__ __forceinline__ bool gather(Shared& s, u64* all, u32* counters, int n) {
    const int mine = s.count;
    if (threadIdx.x == 0) s.first = int(atomicAdd(counters, u32(mine)));
    __syncthreads();
    for (int i = threadIdx.x; i < mine; i += THREADS) all[s.first + i] = s.list[i];
    __syncthreads();  // what all threads wrote is released by the arrival of one
    if (threadIdx.x == 0) s.cut = arrive_last(counters + 1, gridDim.x);
    __syncthreads();
    if (!s.cut) return false;
    for (int i = threadIdx.x; i < n; i += THREADS) s.list[i] = *reinterpret_cast<const volatile u64*>(all + i);
    if (threadIdx.x == 0) counters[0] = 0;
    __syncthreads();
    return true;
}

// grid: (blocks a row, rows). lists [R, CAP]; counters [R, 2]: ranks in the list and blocks arrived, 0 between launches
extern "C" __global__ void __launch_bounds__(THREADS)
    sample_pick(const float* __restrict__ logits, const u32* __restrict__ masks, const Row* __restrict__ rows,
                const double* __restrict__ uniforms, const u64* __restrict__ seeds, const u64* __restrict__ indexes,
                const Chunk* __restrict__ chunks, const u32* __restrict__ histograms, i64* __restrict__ token,
                float* __restrict__ logprob, i64* __restrict__ top_ids, float* __restrict__ top_logprobs,
                int* __restrict__ state, const Facts* __restrict__ facts, u64* lists, u32* counters, int blocks,
                int vocabulary, int top_n) {
    const int r = blockIdx.y, lane = threadIdx.x % 32, bin = threadIdx.x, warps = THREADS / 32;
    static_assert(BINS == THREADS);
    if (state[r] != 2) return;
    DYNAMIC_SHARED(raw);
    Shared& s = *reinterpret_cast<Shared*>(raw);
    const Row row = rows[r];
    const Logits z(logits, masks, r, vocabulary);
    const Outputs out{token, logprob, nullptr, top_ids, top_logprobs, top_n};
    const Facts f = facts[r];
    const Bins bins(f);
    const bool greedy = row.temperature <= 0.f;
    const float rate = greedy ? LOG2E : LOG2E / row.temperature;
    const double uniform = Uniforms{uniforms, seeds, indexes}.at(r);

    u32 count = 0;
    u64 places = 0;
#pragma unroll 8
    for (int b = 0; b < blocks; b++) {
        const u32* from = histograms + (i64(r) * blocks + b) * 2 * BINS;
        count += from[bin], places += from[BINS + bin];
    }
    const double least = least_weight(bins, bin, rate);
    const double mass = (count * least + double(places) / STEPS * (1.0 - least)) * exp2(double(bins.edge(bin) * rate));
    const double counted = block_scan(double(count), s.scan), weighed = block_scan(mass, s.scan);
    s.until[bin] = weighed;
    if (threadIdx.x == 0) s.count = 0;
    __syncthreads();
    const double total = s.until[BINS - 1];
    const auto bin_reached = [&](bool yes) { return block_first(yes, bin, BINS - 1, s); };

    const int top_bin = bin_reached(counted >= max(1, top_n));
    int far = bin_reached(counted >= (greedy ? 1 : max(1, row.top_k)));  // bins [0, far]: top-k, greedy
    int last = BINS, drawn0 = 0, drawn1 = far;
    if (!greedy && row.top_k == 0) {
        if (row.top_p < 1.f) last = bin_reached(weighed >= double(row.top_p) * total);
        if (row.min_p > 0.f) last = min(last, bins.of(f.top + logf(row.min_p) * row.temperature));
        const double low = last == BINS ? total : last > 0 ? s.until[last - 1] : 0.0, high = last == BINS ? total : s.until[last];
        drawn0 = bin_reached(count > 0 && weighed > uniform * low);
        drawn1 = bin_reached(count > 0 && weighed > uniform * high);
        far = max(drawn1, last == BINS ? 0 : last);
    }
    const bool wanted = bin <= top_bin || (bin >= drawn0 && bin <= drawn1) || bin == last;
    far = max(far, top_bin);
    const double listed = block_scan(wanted ? double(count) : 0.0, s.scan);
    s.start[bin] = int(listed) - (wanted ? int(count) : 0);
    const int n = int(block_total(wanted ? double(count) : 0.0, s));
    if (n > CAP) return;  // all blocks of the row

    for (int c = blockIdx.x * warps + threadIdx.x / 32; c < z.chunks(); c += gridDim.x * warps) {
        const float best = chunks[i64(r) * z.chunks() + c].top;
        if (best == LOWEST || bins.of(best) > far) continue;
        float v[16];
        z.chunk(c, lane, v);
        list_chunk(s, v, c, [&](float x) {
            const int b = bins.of(x);
            return b <= top_bin || (b >= drawn0 && b <= drawn1) || b == last;
        });
    }
    __syncthreads();
    if (gridDim.x > 1 && !gather(s, lists + i64(r) * CAP, counters + 2 * r, n)) return;
    sort_list(s, n);
    u64 chosen = s.list[0];
    if (!greedy) {
        cumulate(s, n, f.top, row.temperature);
        chosen = row.top_k > 0 ? pick_listed(s, n, row, f.top, 0.0, uniform) : pick_from_bins(s, n, row, bins, last, uniform);
    }
    if (threadIdx.x == 0) state[r] = 0;
    out.write(r, chosen, s.list, n, f);
}
