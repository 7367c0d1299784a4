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
#include "common/vector.cuh"
#include "common/warp.cuh"

#define THREADS 1024
#define CAP 2048
#define BINS 1024
#define BINS_A_NAT 32
#define LOG2E 1.4426950408889634f
#define FAR (-1e4f)  // e to the power of it is 0, and 0 times it is 0
#define LOWEST (-__int_as_float(0x7f800000))

struct Row { float temperature, top_p, min_p; int top_k; };

struct Logits {
    const float* x;
    const u32* mask;  // null: all allowed
    int count;

    __device__ __forceinline__ bool allowed(int i) const { return !mask || (mask[i / 32] >> (i % 32) & 1); }

    // f(values, id of the first) of every four logits, this thread's share; what is not allowed is LOWEST
    template <class F>
    __device__ __forceinline__ void each4(F f) const {
        const int chunks = (count + 3) / 4;
        for (int base = threadIdx.x; base < chunks; base += 4 * THREADS) {
            float v[4][4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int c = base + j * THREADS;
                u32 bits = 0;
                float4 four = {0.f, 0.f, 0.f, 0.f};
                if (c < chunks) {
                    bits = mask ? mask[c / 8] >> (c % 8 * 4) & 15 : 15;
#if VECTOR
                    four = reinterpret_cast<const float4*>(x)[c];
#else
                    const int i = 4 * c;
                    if (i + 3 >= count) bits &= 15u >> (i + 4 - count);
                    four.x = x[i];
                    if (i + 1 < count) four.y = x[i + 1];
                    if (i + 2 < count) four.z = x[i + 2];
                    if (i + 3 < count) four.w = x[i + 3];
#endif
                }
                v[j][0] = bits & 1 ? four.x : LOWEST, v[j][1] = bits & 2 ? four.y : LOWEST;
                v[j][2] = bits & 4 ? four.z : LOWEST, v[j][3] = bits & 8 ? four.w : LOWEST;
            }
#pragma unroll
            for (int j = 0; j < 4; j++) f(v[j], 4 * (base + j * THREADS));
        }
    }

    // f(value, id) of every allowed one
    template <class F>
    __device__ __forceinline__ void each(F f) const {
        each4([&](const float (&v)[4], int i) {
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (v[j] > LOWEST) f(v[j], i + j);
        });
    }
};

// order of floats as unsigned integers
__device__ __forceinline__ u32 key_of(float x) {
    const u32 bits = __float_as_uint(x + 0.f);  // -0 equals 0
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float value_of(u32 key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}
__device__ __forceinline__ int bin_of(float x, float top) {
    return int(fminf((top - x) * BINS_A_NAT, float(BINS - 1)));
}

// larger values first, equal ones by id: ascending order of these numbers
__device__ __forceinline__ u64 rank_of(float x, int id) { return u64(~key_of(x)) << 32 | u32(id); }
__device__ __forceinline__ float value_at(u64 rank) { return value_of(~u32(rank >> 32)); }

__device__ __forceinline__ double block_scan(double x, double* room) {  // inclusive, in thread order
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int by = 1; by < 32; by <<= 1) {
        const double y = __shfl_up_sync(FULL, x, by);
        if (lane >= by) x += y;
    }
    __syncthreads();
    if (lane == 31) room[warp] = x;
    __syncthreads();
    double before = 0.0;
    for (int w = 0; w < warp; w++) before += room[w];
    return x + before;
}

struct Shared {
    u64 list[CAP];
    int bins[BINS];
    double scan[32];
    float room[32];
    union {
        double cumulated[CAP];
        struct { u32 low[BINS], high[BINS]; };
    };
    int count, cut, kept, drawn;
    u64 found;
    double before;
};

__device__ __forceinline__ double block_total(double x, Shared& s) {
    x = block_scan(x, s.scan);
    __syncthreads();
    if (threadIdx.x == THREADS - 1) s.scan[0] = x;
    __syncthreads();
    x = s.scan[0];
    __syncthreads();
    return x;
}

__device__ __forceinline__ void sort_ranks(u64* list, int size) {  // bitonic, ascending; size a power of two
    for (int run = 2; run <= size; run <<= 1)
        for (int by = run >> 1; by > 0; by >>= 1) {
            for (int i = threadIdx.x; i < size / 2; i += THREADS) {
                const int a = 2 * by * (i / by) + i % by, b = a + by;
                const u64 x = list[a], y = list[b];
                if ((x > y) == ((a & run) == 0)) list[a] = y, list[b] = x;
            }
            __syncthreads();
        }
}

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
__device__ __forceinline__ u64 pass_target_by_bins(const Logits& z, Shared& s, double target, u64 last, float top,
                                                   float rate) {
    const int bin = threadIdx.x;
    const auto base = [&](int b) { return -float(b) / BINS_A_NAT * rate; };  // log2 of the bin's largest weight
    s.bins[bin] = s.low[bin] = s.high[bin] = 0;
    __syncthreads();
    z.each([&](float x, int i) {
        if (rank_of(x, i) > last) return;
        const int b = bin_of(x, top);
        atomicAdd(&s.bins[b], 1);
        if (!COUNT) {  // fixed point: sums that do not depend on their order
            const u32 share = u32(fminf(exp2f((x - top) * rate - base(b)), 1.f) * 4294967040.f);
            atomicAdd(&s.low[b], share & 0xffffu);
            atomicAdd(&s.high[b], share >> 16);
        }
    });
    __syncthreads();
    const double mass =
        COUNT ? double(s.bins[bin])
              : (double(s.low[bin]) + 65536.0 * double(s.high[bin])) / 4294967040.0 * exp2(double(base(bin)));
    const double until = block_scan(mass, s.scan);
    if (bin == 0) s.cut = BINS, s.kept = 0, s.count = 0;
    __syncthreads();
    if (until > target && s.bins[bin] > 0) atomicMin(&s.cut, bin);
    __syncthreads();
    if (s.cut == BINS && s.bins[bin] > 0) atomicMax(&s.kept, bin);  // all of it falls short by rounding: the last
    __syncthreads();
    const int here = s.cut == BINS ? s.kept : s.cut;
    if (bin == here) s.before = until - mass;
    __syncthreads();
    const double before = s.before;
    if (s.bins[here] > CAP) return ~u64(0);
    z.each([&](float x, int i) {
        if (bin_of(x, top) == here && rank_of(x, i) <= last) s.list[atomicAdd(&s.count, 1)] = rank_of(x, i);
    });
    __syncthreads();
    const int n = s.count;
    int size = 2;
    while (size < n) size <<= 1;
    for (int i = threadIdx.x; i < size; i += THREADS)
        if (i >= n) s.list[i] = ~u64(0);
    __syncthreads();
    sort_ranks(s.list, size);
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
__device__ __noinline__ u64 pass(const Logits& z, Shared& s, double target, u64 last, float top, float rate) {
    const u64 found = pass_target_by_bins<COUNT>(z, s, target, last, top, rate);
    return found != ~u64(0) ? found : pass_target<COUNT>(z, s, target, last, top, rate);
}

// the top n of a row where even they are many equals; gives the first
__device__ __forceinline__ u64 top_of(const Logits& z, Shared& s, i64* ids, float* logprobs, int top_n, float top,
                                      float log_sum, float rate) {
    double possible = 0.0;
    z.each([&](float, int) { possible += 1.0; });
    const int n = min(max(1, top_n), int(block_total(possible, s)));
    const u64 nth = pass<true>(z, s, n - 0.5, rank_of(-3.4e38f, 0x7fffffff), top, rate);
    if (threadIdx.x == 0) s.count = 0;
    __syncthreads();
    z.each([&](float x, int i) { if (rank_of(x, i) <= nth) s.list[atomicAdd(&s.count, 1)] = rank_of(x, i); });
    int size = 2;
    while (size < n) size <<= 1;
    for (int i = threadIdx.x; i < size; i += THREADS)
        if (i >= n) s.list[i] = ~u64(0);
    __syncthreads();
    sort_ranks(s.list, size);
    for (int i = threadIdx.x; i < top_n; i += THREADS) {
        ids[i] = i < n ? i64(u32(s.list[i])) : 0;
        logprobs[i] = i < n ? value_at(s.list[i]) - top - log_sum : LOWEST;
    }
    const u64 first = s.list[0];
    __syncthreads();
    return first;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sample_wide(const float* __restrict__ logits, const u32* __restrict__ masks, const Row* __restrict__ rows,
                const double* __restrict__ uniforms, i64* __restrict__ token, float* __restrict__ logprob,
                i64* __restrict__ top_ids, float* __restrict__ top_logprobs, const int* __restrict__ state,
                const float* __restrict__ facts, int vocabulary, int top_n) {
    const int r = blockIdx.x;
    if (state[r] < 2) return;
    DYNAMIC_SHARED(raw);
    Shared& s = *reinterpret_cast<Shared*>(raw);
    const Row row = rows[r];
    const Logits z{logits + i64(r) * vocabulary, masks ? masks + i64(r) * ((vocabulary + 31) / 32) : nullptr, vocabulary};
    const float top = facts[3 * r], log_sum = facts[3 * r + 2];
    const float rate = row.temperature <= 0.f ? LOG2E : LOG2E / row.temperature;
    const u64 all = rank_of(-3.4e38f, 0x7fffffff);
    u64 chosen = 0, last = all;
    if (state[r] == 3) chosen = top_of(z, s, top_ids + i64(r) * top_n, top_logprobs + i64(r) * top_n, top_n, top, log_sum, rate);
    if (row.temperature > 0.f) {
        const auto mass = [&] {
            double sum = 0.0;
            z.each([&](float x, int i) { if (rank_of(x, i) <= last) sum += exp2f((x - top) * rate); });
            return block_total(sum, s);
        };
        if (row.top_k > 0 && row.top_k < z.count) last = pass<true>(z, s, row.top_k - 0.5, last, top, rate);
        if (row.top_p < 1.f) {
            const double whole = last == all ? double(facts[3 * r + 1]) : mass();
            last = pass<false>(z, s, row.top_p * whole, last, top, rate);
        }
        if (row.min_p > 0.f) {
            const u64 least = rank_of(top + logf(row.min_p) * row.temperature, 0x7fffffff);
            if (least < last) last = least;
        }
        const double whole = last == all ? double(facts[3 * r + 1]) : mass();
        chosen = pass<false>(z, s, uniforms[r] * whole, last, top, rate);
    } else if (state[r] == 2) {
        return;  // greedy rows have been drawn
    }
    if (threadIdx.x == 0) token[r] = i64(u32(chosen)), logprob[r] = value_at(chosen) - top - log_sum;
}
