// Draws a row's next token from its logits: grammar mask, temperature, top-k, top-p, min-p, in this order,
// by inverting the cumulated distribution (most likely first, equal ones by id) at a given uniform number.
// Also log-probability, entropy and the top n of the masked distribution at temperature 1.
//
// One block a row. Three passes over the row, the first from memory, the others from the L2: (1) maximum and
// sums; (2) a histogram of the distance to the maximum, which says how far down the candidates reach that
// can matter; (3) these candidates into shared memory, where they are sorted. Sums have a fixed order, so
// that a row's outcome depends on nothing but the row. A row whose candidates would be more than CAP (a flat
// distribution) is left to sample_wide, which finds thresholds by bisection over the values: slow, exact.
#ifndef VECTOR  // 1: rows begin on 16 bytes and hold whole chunks of 4
#define VECTOR 1
#endif
#include "common/logits.cuh"

// logits [R, V]; masks [R, ceil(V / 32)] or null; state 0: drawn, 1: the mask allows nothing,
// 2: sample_wide draws, 3: it finds the top n too, with facts [R, 3]: the maximum, the sum of e^((x - max) / T), log of that at T = 1
extern "C" __global__ void __launch_bounds__(THREADS)
    sample(const float* __restrict__ logits, const u32* __restrict__ masks, const Row* __restrict__ rows,
           const double* __restrict__ uniforms, i64* __restrict__ token, float* __restrict__ logprob,
           float* __restrict__ entropy, i64* __restrict__ top_ids, float* __restrict__ top_logprobs,
           int* __restrict__ state, float* __restrict__ facts, int vocabulary, int top_n) {
    DYNAMIC_SHARED(raw);
    Shared& s = *reinterpret_cast<Shared*>(raw);
    const int r = blockIdx.x;
    const Row row = rows[r];
    const Logits z{logits + i64(r) * vocabulary, masks ? masks + i64(r) * ((vocabulary + 31) / 32) : nullptr, vocabulary};
    const bool greedy = row.temperature <= 0.f;
    const float rate = greedy ? LOG2E : LOG2E / row.temperature;
    const bool tempered = !greedy && row.temperature != 1.f && row.top_k == 0;

    float top = LOWEST, sum = 0.f, moment = 0.f, warm = 0.f;  // of e^(x-top), e^(x-top)(x-top), e^((x-top)/T)
    z.each4([&](const float (&v)[4], int) {
        const float best = fmaxf(fmaxf(v[0], v[1]), fmaxf(v[2], v[3]));
        if (best > top) {
            const float gap = fmaxf(top - best, FAR), factor = exp2_fast(gap * LOG2E);
            moment = factor * (moment + sum * gap);
            sum *= factor;
            if (tempered) warm *= exp2_fast(gap * rate);
            top = best;
        }
        if (top == LOWEST) return;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float d = fmaxf(v[j] - top, FAR), e = exp2_fast(d * LOG2E);
            sum += e;
            moment += e * d;
            if (tempered) warm += exp2_fast(d * rate);
        }
    });
    const float most = block_max(top, s.room);
    if (most == LOWEST) {
        if (threadIdx.x == 0) state[r] = 1, token[r] = 0, logprob[r] = LOWEST, entropy[r] = 0.f;
        for (int i = threadIdx.x; i < top_n; i += THREADS)
            top_ids[i64(r) * top_n + i] = 0, top_logprobs[i64(r) * top_n + i] = LOWEST;
        return;
    }
    const float gap = top == LOWEST ? 0.f : top - most, factor = top == LOWEST ? 0.f : exp2_fast(gap * LOG2E);
    moment = block_sum(factor * (moment + sum * gap), s.room);
    sum = block_sum(factor * sum, s.room);
    const float total = tempered ? block_sum(top == LOWEST ? 0.f : warm * exp2_fast(gap * rate), s.room) : sum;
    top = most;
    const float log_sum = logf(sum);

    for (int i = threadIdx.x; i < BINS; i += THREADS) s.bins[i] = 0;
    if (threadIdx.x == 0) s.count = 0;
    __syncthreads();
    z.each([&](float x, int) { atomicAdd(&s.bins[bin_of(x, top)], 1); });
    __syncthreads();

    // how far down: by count for top-k and the top n, by mass (a lower bound of each bin's) for the rest,
    // where min-p alone needs all that it keeps
    const int least = greedy ? max(1, top_n) : max(max(1, top_n), row.top_k);
    const float share = row.top_p < 1.f ? row.top_p : float(uniforms[r]);
    const bool by_mass = !greedy && row.top_k == 0;
    const int floor_bin = row.min_p > 0.f ? bin_of(top + logf(row.min_p) * row.temperature, top) : BINS - 1;
    bool wide;
    {
        static_assert(BINS == THREADS);
        const int n = s.bins[threadIdx.x];
        const double counted = block_scan(double(n), s.scan);
        const double weighed =
            block_scan(double(n) * exp2_fast(-float(threadIdx.x + 1) / BINS_A_NAT * rate), s.scan);
        const bool last_bin = threadIdx.x == BINS - 1;
        bool enough = counted >= least && (!by_mass || (row.min_p > 0.f && int(threadIdx.x) >= floor_bin) ||
                                           ((row.min_p == 0.f || row.top_p < 1.f) &&
                                            weighed >= double(share) * total * 1.00001));
        if (last_bin) enough = true;  // there is no more
        const auto first = [&](bool yes) {  // bin at which it holds; and how many lie up to it
            if (threadIdx.x == 0) s.cut = BINS - 1;
            __syncthreads();
            const u32 vote = __ballot_sync(FULL, yes);
            if (vote && threadIdx.x % 32 == u32(__ffs(int(vote)) - 1)) atomicMin(&s.cut, int(threadIdx.x));
            __syncthreads();
            if (int(threadIdx.x) == s.cut) s.kept = int(counted);
            __syncthreads();
        };
        first(enough);
        wide = s.kept > CAP;
        if (wide) first(counted >= max(1, top_n));  // the top n at least
    }
    const int cut = s.cut;
    if (threadIdx.x == 0) {
        entropy[r] = log_sum - moment / sum;
        state[r] = s.kept > CAP ? 3 : wide ? 2 : 0;
        facts[3 * r] = top, facts[3 * r + 1] = total, facts[3 * r + 2] = log_sum;
    }
    if (s.kept > CAP) return;
    z.each([&](float x, int i) {
        if (bin_of(x, top) <= cut) {
            const int at = atomicAdd(&s.count, 1);
            if (at < CAP) s.list[at] = rank_of(x, i);
        }
    });
    __syncthreads();
    const int n = min(s.count, CAP);
    int size = 2;
    while (size < n) size <<= 1;
    for (int i = threadIdx.x; i < size; i += THREADS)
        if (i >= n) s.list[i] = ~u64(0);
    __syncthreads();
    sort_ranks(s.list, size);

    u64 chosen = s.list[0];
    if (!greedy && !wide) {
        // cumulated weights of the sorted candidates, two a thread
        const int a = 2 * threadIdx.x, b = a + 1;
        const double pa = a < n ? exp(double(value_at(s.list[a]) - top) / row.temperature) : 0.0;
        const double pb = b < n ? exp(double(value_at(s.list[b]) - top) / row.temperature) : 0.0;
        const double after = block_scan(pa + pb, s.scan);
        s.cumulated[a] = after - pb, s.cumulated[b] = after;
        if (threadIdx.x == 0) s.kept = n, s.drawn = n;
        __syncthreads();
        int limit = row.top_k > 0 ? min(row.top_k, n) : n;
        double all = row.top_k > 0 || cut == BINS - 1 ? s.cumulated[limit - 1] : double(total);
        if (row.top_p < 1.f) {  // the first at which the sum reaches top_p is the last to stay
            const double target = double(row.top_p) * all;
            if (a < limit && s.cumulated[a] >= target) atomicMin(&s.kept, a + 1);
            if (b < limit && s.cumulated[b] >= target) atomicMin(&s.kept, b + 1);
            __syncthreads();
            limit = min(limit, s.kept);
            all = s.cumulated[limit - 1];
        }
        if (row.min_p > 0.f) {
            __syncthreads();
            if (threadIdx.x == 0) s.kept = limit;
            __syncthreads();
            if (a < limit && pa < double(row.min_p)) atomicMin(&s.kept, a);
            if (b < limit && pb < double(row.min_p)) atomicMin(&s.kept, b);
            __syncthreads();
            limit = max(1, min(limit, s.kept));
            all = s.cumulated[limit - 1];
        }
        const double target = uniforms[r] * all;
        if (a < limit && s.cumulated[a] > target) atomicMin(&s.drawn, a);
        if (b < limit && s.cumulated[b] > target) atomicMin(&s.drawn, b);
        __syncthreads();
        chosen = s.list[min(s.drawn, limit - 1)];
    }
    if (threadIdx.x == 0) {
        token[r] = i64(u32(chosen));
        logprob[r] = value_at(chosen) - top - log_sum;
    }
    for (int i = threadIdx.x; i < top_n; i += THREADS) {
        top_ids[i64(r) * top_n + i] = i < n ? i64(u32(s.list[i])) : 0;
        top_logprobs[i64(r) * top_n + i] = i < n ? value_at(s.list[i]) - top - log_sum : LOWEST;
    }
}
