// The next token of each row from the head's products, so that logits never leave the device. One
// block a row. The rule is that of ops/sample.rs: tokens stand in the order of their logits (of ids
// where those are equal); of this order the first `top_k` are kept, of those the fewest that hold the
// share `top_p`, and of those the one is taken in which the row's chance falls.
//
// No sorting: each of these three is a search for a place in the order by the mass before it, four
// bits of the logit's key at a time. Masses are whole numbers (weights times 2^45), whose sums do not
// depend on the order of adding.
//
// The token also goes where the next step reads it, so that steps follow each other without the host.
#include "attention.cuh"
#include "block.cuh"

/// Threads of a block; its warps are as many as a digit has values.
constexpr i32 SAMPLE_THREADS = 512;
constexpr i32 DIGITS = SAMPLE_THREADS / 32;
/// What the largest logit weighs: sums of fewer than 2^19 such weights fit into 64 bits.
constexpr double HEAVIEST = 35184372088832.0;
/// Where logits are not numbers.
constexpr u32 NO_TOKEN = 0xffffffffu;

struct SampleTask {
    i32 rows, vocabulary;
    u32 last;   // no position goes beyond it
    u32 top_k;  // 0: all
    f32 scale, cap;
    double temperature, top_p;
};

/// Larger values have smaller keys; zeros are equal.
HOST_DEVICE u32 sample_key(f32 x) {
    u32 bits = f32_to_bits(x);
    if (bits == 0x80000000u) bits = 0;
    return bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
}
HOST_DEVICE f32 sample_value(u32 key) {
    return bits_to_f32(key & 0x80000000u ? key : ~key & 0x7fffffffu);
}

/// One row's products and what a token of it weighs.
struct SampleRow {
    const f32* products;
    i32 count;
    f32 scale, cap, largest;
    double temperature;

    DEVICE f32 logit(f32 scaled) const { return cap != 0.0f ? cap * tanh_by_exp(scaled / cap) : scaled; }
    DEVICE u64 weight(f32 scaled) const {
        return u64(exp(double(logit(scaled) - largest) / temperature) * HEAVIEST + 0.5);
    }
};

/// A place in the order: the `rank`-th of the tokens with this key. `before` stands before the key,
/// and each token of the key counts `unit`.
struct Place {
    u32 key;
    u64 before, unit, rank;
    DEVICE u64 through() const { return before + (rank + 1) * unit; }
};

/// The first place such that more than `target` is before it and in it; of weights, or of tokens if
/// `counting`. There is more than `target` in all. `bins` [DIGITS, SAMPLE_THREADS], `totals` [DIGITS].
DEVICE Place sample_search(const SampleRow& row, u64 target, bool counting, u64* bins, u64* totals) {
    Place place{0, 0, 0, 0};
    for (i32 shift = 28; shift >= 0; shift -= 4) {
        for (i32 d = 0; d < DIGITS; ++d) bins[d * SAMPLE_THREADS + threadIdx.x] = 0;
        u32 mask = shift == 28 ? 0u : ~0u << (shift + 4);
        for (i32 i = i32(threadIdx.x); i < row.count; i += SAMPLE_THREADS) {
            f32 x = row.products[i] * row.scale;
            u32 key = sample_key(x);
            if ((key & mask) == place.key)
                bins[((key >> shift) & 15u) * SAMPLE_THREADS + threadIdx.x] += counting ? 1 : row.weight(x);
        }
        __syncthreads();
        u64 sum = 0;
        for (i32 i = i32(lane_id()); i < SAMPLE_THREADS; i += 32) sum += bins[warp_id() * SAMPLE_THREADS + i];
        for (i32 step = 16; step > 0; step >>= 1) sum += __shfl_xor_sync(ALL_LANES, sum, step);
        if (lane_id() == 0) totals[warp_id()] = sum;
        __syncthreads();
        u32 d = 0;
        while (d < DIGITS - 1 && place.before + totals[d] <= target) place.before += totals[d++];
        place.key |= d << shift;
    }
    place.unit = counting ? 1 : row.weight(sample_value(place.key));
    place.rank = (target - place.before) / place.unit;
    __syncthreads();
    return place;
}

/// What all tokens before a key weigh.
DEVICE u64 sample_mass(const SampleRow& row, u32 key, u64* totals) {
    u64 sum = 0;
    for (i32 i = i32(threadIdx.x); i < row.count; i += SAMPLE_THREADS) {
        f32 x = row.products[i] * row.scale;
        if (sample_key(x) < key) sum += row.weight(x);
    }
    for (i32 step = 16; step > 0; step >>= 1) sum += __shfl_xor_sync(ALL_LANES, sum, step);
    if (lane_id() == 0) totals[warp_id()] = sum;
    __syncthreads();
    sum = 0;
    for (i32 w = 0; w < DIGITS; ++w) sum += totals[w];
    __syncthreads();
    return sum;
}

/// The id at a place. A thread looks at ids next to each other, so that threads count in the order of ids.
DEVICE u32 sample_id(const SampleRow& row, const Place& place, u64* bins, u32* found) {
    i32 share = ceil_div(row.count, SAMPLE_THREADS), first = i32(threadIdx.x) * share;
    i32 last = least(first + share, row.count);
    u64 mine = 0;
    for (i32 i = first; i < last; ++i) mine += sample_key(row.products[i] * row.scale) == place.key;
    bins[threadIdx.x] = mine;
    __syncthreads();
    if (mine > 0) {
        u64 before = 0;
        for (i32 t = 0; t < i32(threadIdx.x); ++t) before += bins[t];
        for (i32 i = first; i < last; ++i)
            if (sample_key(row.products[i] * row.scale) == place.key && before++ == place.rank) *found = u32(i);
    }
    __syncthreads();
    return *found;
}

/// Grid: rows. products [rows, vocabulary]; tokens, positions, taken [rows]: the next step's inputs and
/// the steps taken so far; picked [steps, rows]; chances [steps, rows, 2]: the bits of each one's random
/// number, unused where `temperature` is 0. Dynamic shared memory: DIGITS · SAMPLE_THREADS u64.
KERNEL_BOUNDS(sample, 512, 1, const f32* products, u32* tokens, u32* positions, u32* taken, u32* picked,
              const u32* chances, GRID_CONSTANT SampleTask task) {
    DYNAMIC_SHARED(memory);
    __shared__ u64 totals[DIGITS];
    __shared__ u32 found;
    u64* bins = reinterpret_cast<u64*>(memory);
    i64 r = blockIdx.x;
    SampleRow row{products + r * task.vocabulary, task.vocabulary, task.scale, task.cap, 0.0f, task.temperature};

    // The largest: the least of key and id in one number. What is no number is less than all.
    u64 best = ~0ull;
    for (i32 i = i32(threadIdx.x); i < row.count; i += SAMPLE_THREADS) {
        f32 x = row.products[i] * row.scale;
        u64 mine = x != x ? 0 : ((u64(sample_key(x)) + 1) << 32) | u32(i);
        if (mine < best) best = mine;
    }
    for (i32 step = 16; step > 0; step >>= 1) {
        u64 other = __shfl_xor_sync(ALL_LANES, best, step);
        if (other < best) best = other;
    }
    if (lane_id() == 0) totals[warp_id()] = best;
    __syncthreads();
    for (i32 w = 0; w < DIGITS; ++w)
        if (totals[w] < best) best = totals[w];
    __syncthreads();

    u32 token = best == 0 ? NO_TOKEN : u32(best);
    row.largest = row.logit(sample_value(u32((best >> 32) - 1)));
    u32 step = taken[r];
    if (token != NO_TOKEN && task.temperature > 0.0 && fabsf(row.largest) < bits_to_f32(0x7f800000u)) {
        u64 kept;
        if (task.top_k > 0 && i32(task.top_k) < row.count) {
            Place place = sample_search(row, task.top_k - 1, true, bins, totals);
            kept = sample_mass(row, place.key, totals) + (place.rank + 1) * row.weight(sample_value(place.key));
        } else {
            kept = sample_mass(row, ~0u, totals);
        }
        if (task.top_p < 1.0) {
            double share = ceil(task.top_p * double(kept));
            u64 least_mass = share < 1.0 ? 1 : u64(share);
            kept = sample_search(row, (least_mass < kept ? least_mass : kept) - 1, false, bins, totals).through();
        }
        const u32* bits = chances + (i64(step) * task.rows + r) * 2;
        double chance = double(((u64(bits[1]) << 32) | bits[0]) >> 11) / 9007199254740992.0;
        u64 target = u64(chance * double(kept));
        Place place = sample_search(row, target < kept ? target : kept - 1, false, bins, totals);
        token = sample_id(row, place, bins, &found);
    }
    if (threadIdx.x == 0) {
        picked[i64(step) * task.rows + r] = token;
        taken[r] = step + 1;
        tokens[r] = token == NO_TOKEN ? 0 : token;
        positions[r] = positions[r] < task.last ? positions[r] + 1 : task.last;
    }
}
