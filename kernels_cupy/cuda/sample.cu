// Draws a row's next token from its logits: grammar mask, temperature, top-k, top-p, min-p, in this order,
// by inverting the cumulated distribution (most likely first, equal ones by id) at a given uniform number.
// Also log-probability, entropy and the top n of the masked distribution at temperature 1.
//
// sample_scan reads all logits once, several blocks a row, and notes maximum and sums of every chunk of 512.
// `sample`, a block a row, adds them up and finds a value that enough chunks reach; only chunks that reach it
// can hold the likeliest tokens, and only these are read again, sorted, and drawn from. That decides greedy
// rows, small top-k and all but flat distributions; the others go to sample_bins. Sums are over chunks in a
// fixed order, so that a row's outcome depends on nothing but the row.
#ifndef VECTOR  // 1: rows begin on 16 bytes and hold whole chunks of 4; set by kernels_cupy/sample.py
#define VECTOR 1
#endif
#include "common/logits.cuh"

#define SCAN_THREADS 256
#define LIKELY 64  // chunks whose best are looked at where a mass has to be reached
#define FEW 64     // a top-k that is decided here whatever the row; of kernels_cupy/sample.py

__device__ __forceinline__ bool tempered(const Row& row) {
    return row.temperature > 0.f && row.temperature != 1.f && row.top_k == 0;
}

// grid: (blocks a row, rows). logits [R, V]; masks [R, ceil(V / 32)] or null; chunks [R, ceil(V / 512)]
extern "C" __global__ void __launch_bounds__(SCAN_THREADS, 4)
    sample_scan(const float* __restrict__ logits, const u32* __restrict__ masks, const Row* __restrict__ rows,
                Chunk* __restrict__ chunks, int vocabulary) {
    const int r = blockIdx.y, lane = threadIdx.x % 32, warps = SCAN_THREADS / 32;
    const Row row = rows[r];
    const Logits z(logits, masks, r, vocabulary);
    const bool warmer = tempered(row);
    const float rate = warmer ? LOG2E / row.temperature : 0.f;
    const int step = gridDim.x * warps;
    int c = blockIdx.x * warps + threadIdx.x / 32;
    float next[16];
    if (c < z.chunks()) z.chunk(c, lane, next);
    for (; c < z.chunks(); c += step) {
        float v[16], top = LOWEST, low = -LOWEST, sum = 0.f, moment = 0.f, warm = 0.f;
#pragma unroll
        for (int k = 0; k < 16; k++) v[k] = next[k];
        if (c + step < z.chunks()) z.chunk(c + step, lane, next);  // under way while this one is added up
#pragma unroll
        for (int k = 0; k < 16; k++) {
            top = fmaxf(top, v[k]);
            low = fminf(low, v[k] > LOWEST ? v[k] : -LOWEST);
        }
        top = warp_max(top), low = -warp_max(-low);
        if (top > LOWEST) {
#pragma unroll
            for (int k = 0; k < 16; k++) {
                const float d = fmaxf(v[k] - top, FAR), e = exp2_fast(d * LOG2E);
                sum += e;
                moment += e * d;
                if (warmer && v[k] > LOWEST) warm += exp2_fast(d * rate);
            }
            sum = warp_sum(sum), moment = warp_sum(moment);
            if (warmer) warm = warp_sum(warm);
        }
        if (lane == 0) {
            float4* to = reinterpret_cast<float4*>(chunks + i64(r) * z.chunks() + c);
            to[0] = float4{top, low, sum, moment};
            to[1] = float4{warm, 0.f, 0.f, 0.f};
        }
    }
}

// the sums of the row's chunks, the same in all threads; s.tops holds their maxima
__device__ __forceinline__ Facts add_up(const Chunk* chunks, int count, const Row& row, Shared& s, float& entropy) {
    float top = LOWEST, low = -LOWEST, sums[3] = {};
    for (int c = threadIdx.x; c < count; c += THREADS) {
        const float best = chunks[c].top;
        s.tops[c] = best;
        top = fmaxf(top, best), low = fminf(low, chunks[c].low);
    }
    if (int(threadIdx.x) < (4 - count % 4) % 4) s.tops[count + threadIdx.x] = LOWEST;
    float ends[2] = {top, -low};
    block_maxima(ends, s.room);
    top = ends[0], low = -ends[1];
    const float rate = tempered(row) ? LOG2E / row.temperature : 0.f;
    for (int c = threadIdx.x; c < count; c += THREADS) {
        const Chunk x = chunks[c];
        if (x.top == LOWEST) continue;
        const float gap = fmaxf(x.top - top, FAR), factor = exp2_fast(gap * LOG2E);
        sums[0] += factor * x.sum, sums[1] += factor * (x.moment + x.sum * gap);
        sums[2] += exp2_fast(gap * rate) * x.warm;
    }
    block_sums(sums, s.room);
    const float log_sum = logf(sums[0]);
    entropy = log_sum - sums[1] / sums[0];
    return Facts{top, tempered(row) ? sums[2] : sums[0], log_sum, low};
}

// a value that the best of `wanted` chunks reach, so that at least as many logits do: the largest that so many reach
__device__ __forceinline__ float value_reached(Shared& s, int chunks, int wanted) {
    float reach = LOWEST;
    __syncthreads();
    if (chunks > wanted)
        for (int c = threadIdx.x; c < chunks; c += THREADS) {
            const float mine = s.tops[c];
            int reaching = 0;
#pragma unroll 4
            for (int i = 0; i < chunks; i += 4) {  // what lies past the last was filled with LOWEST
                const float4 t = *reinterpret_cast<const float4*>(s.tops + i);
                reaching += (t.x >= mine) + (t.y >= mine) + (t.z >= mine) + (t.w >= mine);
            }
            if (reaching >= wanted && mine > reach) reach = mine;
        }
    return block_max(reach, s.room);
}

// The `wanted` first of the row, one a pass, in s.list: for more equal or crowded logits than the list has room for.
__device__ __forceinline__ int list_best(Shared& s, const Logits& z, int wanted) {
    u64 last = 0;
    int n = 0;
    for (; n < wanted; n++) {
        __syncthreads();
        if (threadIdx.x == 0) s.found = 0;
        __syncthreads();
        u64 best = ~u64(0);
        z.each([&](float x, int id) {
            const u64 rank = rank_of(x, id);
            if ((n == 0 || rank > last) && rank < best) best = rank;
        });
        if (best != ~u64(0)) atomicMax(&s.found, ~best);
        __syncthreads();
        if (s.found == 0) break;  // there are no more
        last = ~s.found;
        if (threadIdx.x == 0) s.list[n] = last;
    }
    __syncthreads();
    return n;
}

// state 0: drawn, 1: the mask allows nothing, 2: not decided here. facts [R] are for those who go on.
extern "C" __global__ void __launch_bounds__(THREADS)
    sample(const float* __restrict__ logits, const u32* __restrict__ masks, const Row* __restrict__ rows,
           const double* __restrict__ uniforms, const u64* __restrict__ seeds, const u64* __restrict__ indexes,
           const Chunk* __restrict__ chunks, i64* __restrict__ token, float* __restrict__ logprob,
           float* __restrict__ entropy, i64* __restrict__ top_ids, float* __restrict__ top_logprobs,
           int* __restrict__ state, Facts* __restrict__ facts, int vocabulary, int top_n) {
    DYNAMIC_SHARED(raw);
    Shared& s = *reinterpret_cast<Shared*>(raw);
    const int r = blockIdx.x, lane = threadIdx.x % 32;
    const Row row = rows[r];
    const Logits z(logits, masks, r, vocabulary);
    const Outputs out{token, logprob, entropy, top_ids, top_logprobs, top_n};
    float nats;
    const Facts f = add_up(chunks + i64(r) * z.chunks(), z.chunks(), row, s, nats);
    if (f.top == LOWEST) {
        if (threadIdx.x == 0) state[r] = 1, token[r] = 0, logprob[r] = LOWEST, entropy[r] = 0.f;
        for (int i = threadIdx.x; i < top_n; i += THREADS)
            top_ids[i64(r) * top_n + i] = 0, top_logprobs[i64(r) * top_n + i] = LOWEST;
        return;
    }
    if (threadIdx.x == 0) facts[r] = f, entropy[r] = nats, state[r] = 2, s.count = 0;

    const bool greedy = row.temperature <= 0.f, by_mass = !greedy && row.top_k == 0;
    const bool all_kept = by_mass && row.min_p > 0.f && row.top_p >= 1.f;  // of min-p's, however many
    const int wanted = max(max(1, top_n), greedy ? 0 : by_mass && !all_kept ? LIKELY : row.top_k);
    float reach = value_reached(s, z.chunks(), wanted);
    // a little below the last that min-p keeps
    const float least = row.min_p > 0.f ? f.top + (logf(row.min_p) - 1e-3f) * row.temperature - 1e-6f * fabsf(f.top) : LOWEST;
    if (all_kept) reach = fminf(reach, least);
    for (int c = threadIdx.x / 32; c < z.chunks(); c += THREADS / 32) {
        if (s.tops[c] < reach || s.tops[c] == LOWEST) continue;
        float v[16];
        z.chunk(c, lane, v);
        list_chunk(s, v, c, [&](float x) { return x >= reach; });
    }
    __syncthreads();
    int n = s.count;
    const bool crowded = n > CAP;
    if (crowded) {
        if (by_mass || (!greedy && row.top_k > FEW)) return;
        n = list_best(s, z, wanted);
    }
    const bool whole = reach == LOWEST, sure = whole || greedy || !by_mass || (row.min_p > 0.f && reach <= least);
    const double uniform = greedy ? 0.0 : Uniforms{uniforms, seeds, indexes}.at(r);
    const double share = row.top_p < 1.f ? double(row.top_p) : uniform, needed = share * f.total * 1.00001;
    if (!sure) {  // not worth sorting where it falls clearly short
        float mass = 0.f;
        for (int i = threadIdx.x; i < n; i += THREADS) mass += exp2_fast((value_at(s.list[i]) - f.top) * LOG2E / row.temperature);
        if (block_sum(mass, s.room) * 1.001f < needed) return;
    }
    if (!crowded) sort_list(s, n);
    u64 chosen = s.list[0];
    if (!greedy) {
        cumulate(s, n, f.top, row.temperature);
        const double mass = s.cumulated[n - 1];
        if (!sure && ((row.min_p > 0.f && row.top_p >= 1.f) || mass < needed)) return;
        chosen = pick_listed(s, n, row, f.top, whole ? mass : double(f.total), uniform);
    }
    if (threadIdx.x == 0) state[r] = 0;
    out.write(r, chosen, s.list, n, f);
}
