// What hopper.cuh's instructions do, in plain C++. Copies by the engine arrive at a time drawn by
// chance; products are carried out when the program waits for them and not before.
#pragma once
#include "emulate.h"

namespace emulate {

/// A tensor as the host describes it, in place of the driver's 128 opaque bytes. Sizes are by
/// dimension, the innermost first; `strides[i]` is the bytes from one index of dimension i + 1 to
/// the next. Elements are bf16 (2 bytes) or f32 (4).
struct Tensor {
    u8* base;
    u32 rank;
    u32 element_bytes;
    u32 swizzle_bytes;  // 0 or 128
    u32 box[3];
    u64 sizes[3];
    u64 strides[2];
};
static_assert(sizeof(Tensor) <= 128, "it stands in the place of the driver's");

struct Phase {
    u16 pending;
    u16 arrivals;
    i32 bytes_and_phase;  // bytes still to come, times two, plus the phase's parity
};
static_assert(sizeof(Phase) == 8, "a barrier is eight bytes");

inline Phase* phase_at(u32 barrier) { return reinterpret_cast<Phase*>(shared_at(barrier, 8, 8)); }

inline void complete(Phase* p) {
    if (p->pending == 0 && p->bytes_and_phase >> 1 == 0) {
        p->pending = p->arrivals;
        p->bytes_and_phase ^= 1;
    }
    ++block()->progress;
}

inline void add_bytes(Phase* p, i32 bytes) {
    p->bytes_and_phase += bytes * 2;
}

/// Ends the run where asynchronous work meets an ordinary write that was not fenced.
inline void expect_fenced(u32 shared, u32 bytes, const char* who) {
    Block* b = block();
    for (u32 word = shared / 4; word < (shared + bytes + 3) / 4; ++word)
        if (b->unfenced[word] != 0)
            fault(std::string(who) + " meets what thread " + std::to_string(b->unfenced[word] - 1) +
                  " wrote to shared memory and did not fence");
}

/// Calls `each(offset in the tile, address in the tensor or null where outside)` by element.
template <class Each>
void box(const Tensor& t, const i32 (&at)[3], Each each) {
    u32 row_bytes = t.box[0] * t.element_bytes;
    if (t.swizzle_bytes != 0 && row_bytes != t.swizzle_bytes)
        fault("a swizzled box has rows of " + std::to_string(row_bytes) + " bytes, not 128");
    u32 depth = t.rank > 2 ? t.box[2] : 1;
    for (u32 z = 0; z < depth; ++z)
        for (u32 y = 0; y < t.box[1]; ++y)
            for (u32 x = 0; x < t.box[0]; ++x) {
                i64 X = at[0] + i64(x), Y = at[1] + i64(y), Z = at[2] + i64(z);
                bool inside = X >= 0 && u64(X) < t.sizes[0] && Y >= 0 && u64(Y) < t.sizes[1] &&
                              (t.rank < 3 || (Z >= 0 && u64(Z) < t.sizes[2]));
                u8* address = inside ? t.base + u64(X) * t.element_bytes + u64(Y) * t.strides[0] +
                                           (t.rank < 3 ? 0 : u64(Z) * t.strides[1])
                                     : nullptr;
                each((z * t.box[1] + y) * row_bytes + x * t.element_bytes, address);
            }
}

inline u32 box_bytes(const Tensor& t) {
    return t.box[0] * t.box[1] * (t.rank > 2 ? t.box[2] : 1) * t.element_bytes;
}

inline u32 swizzled(const Tensor& t, u32 address) {
    return t.swizzle_bytes == 128 ? address ^ ((address >> 3) & 0x70u) : address;
}

inline void tensor_load(u32 shared, const TensorMap& map, u32 barrier, i32 x, i32 y, i32 z) {
    Tensor t;
    std::memcpy(&t, &map, sizeof t);
    shared_at(shared, box_bytes(t), t.swizzle_bytes ? 1024 : 128);
    phase_at(barrier);
    Block* b = block();
    for (auto& thread : b->threads)
        if (thread->unfenced_barriers) fault("a copy by a barrier that was set up and not fenced");
    b->engine.push_back([=] {
        expect_fenced(shared, box_bytes(t), "a copy");
        box(t, {x, y, z}, [&](u32 offset, u8* from) {
            u8* to = b->shared + swizzled(t, shared + offset);
            if (from)
                std::memcpy(to, from, t.element_bytes);
            else
                std::memset(to, 0, t.element_bytes);
        });
        Phase* p = reinterpret_cast<Phase*>(b->shared + barrier);
        add_bytes(p, -i32(box_bytes(t)));
        complete(p);
    });
}

/// Where element (mn, k) of an operand stands, by its descriptor.
inline u32 operand_address(u64 descriptor, i32 mn_major, u32 mn, u32 k) {
    if (descriptor >> 62 != 1) fault("a descriptor without the 128-byte swizzle");
    u32 start = u32(descriptor & 0x3fff) << 4;
    u32 lead = u32((descriptor >> 16) & 0x3fff) << 4, stride = u32((descriptor >> 32) & 0x3fff) << 4;
    u32 offset = mn_major
                     ? (mn % 64) * 2 + (mn / 64) * lead + (k % 8) * 128 + (k / 8) * stride
                     : (mn % 8) * 128 + (mn / 8) * stride + k * 2;
    u32 address = start + offset;
    return address ^ ((address >> 3) & 0x70u);
}

inline f32 shared_bf16(u32 address) {
    expect_fenced(address, 2, "a product");
    u16 bits;
    std::memcpy(&bits, shared_at(address, 2, 2), 2);
    u32 wide = u32(bits) << 16;
    f32 value;
    std::memcpy(&value, &wide, 4);
    return value;
}

inline void carry_out(Product& p) {
    std::vector<f32> a(64 * 16), b(16 * p.width);
    for (u32 m = 0; m < 64; ++m)
        for (u32 k = 0; k < 16; ++k)
            if (p.from_registers) {
                u32 thread = m / 16 * 32 + m % 8 * 4 + k % 8 / 2;
                a[m * 16 + k] = half_of(p.a_registers[thread][m / 8 % 2 + 2 * (k / 8)], k % 2);
            } else {
                a[m * 16 + k] = shared_bf16(operand_address(p.a, p.a_mn, m, k));
            }
    for (u32 k = 0; k < 16; ++k)
        for (u32 n = 0; n < u32(p.width); ++n)
            b[k * u32(p.width) + n] = shared_bf16(operand_address(p.b, p.b_mn, n, k));
    for (u32 thread = 0; thread < 128; ++thread)
        for (u32 r = 0; r < u32(p.width) / 2; ++r) {
            u32 row = thread / 32 * 16 + thread % 32 / 4 + 8 * (r / 2 % 2);
            u32 column = 8 * (r / 4) + 2 * (thread % 4) + r % 2;
            f32 sum = 0;
            for (u32 k = 0; k < 16; ++k) sum += a[row * 16 + k] * b[k * u32(p.width) + column];
            p.d[thread][r] = p.accumulate ? p.d[thread][r] + sum : sum;
        }
    p.done = true;
}

inline void issue(f32* d, i32 width, const std::array<u32, 4>* registers, u64 a, u64 b, i32 a_mn,
                  i32 b_mn, i32 accumulate) {
    Block* block_ = block();
    Thread* t = block_->current;
    if (!t->fenced) fault("a product of registers that were not fenced");
    auto& products = block_->warpgroups[t->flat / 128];
    if (t->products == products.size()) {
        Product fresh;
        fresh.d.resize(128);
        fresh.a_registers.resize(128);
        fresh.from_registers = registers != nullptr;
        fresh.a = a;
        fresh.b = b;
        fresh.a_mn = a_mn;
        fresh.b_mn = b_mn;
        fresh.width = width;
        fresh.accumulate = accumulate;
        products.push_back(std::move(fresh));
    }
    Product& p = products[t->products++];
    if (p.a != a || p.b != b || p.width != width || p.accumulate != accumulate ||
        p.from_registers != (registers != nullptr))
        fault("threads of a warpgroup disagree on a product");
    u32 place = t->flat % 128;
    p.d[place] = d;
    if (registers) p.a_registers[place] = *registers;
    ++p.arrived;
}

}  // namespace emulate

inline void mbarrier_init(u32 barrier, u32 arrivals) {
    *emulate::phase_at(barrier) = emulate::Phase{u16(arrivals), u16(arrivals), 0};
    emulate::block()->current->unfenced_barriers = true;
}
inline void mbarrier_fence() { emulate::block()->current->unfenced_barriers = false; }
inline void mbarrier_arrive(u32 barrier) {
    emulate::Phase* p = emulate::phase_at(barrier);
    if (p->pending == 0) emulate::fault("more arrivals at a barrier than it expects");
    --p->pending;
    emulate::complete(p);
}
inline void mbarrier_expect(u32 barrier, u32 bytes) {
    if (bytes % 16 != 0 || bytes >= 1u << 20) emulate::fault("a barrier for " + std::to_string(bytes) + " bytes");
    emulate::add_bytes(emulate::phase_at(barrier), i32(bytes));
    mbarrier_arrive(barrier);
}
inline void mbarrier_wait(u32 barrier, u32 parity) {
    emulate::Phase* p = emulate::phase_at(barrier);
    emulate::wait_until([=] { return u32(p->bytes_and_phase & 1) != parity; });
}

inline void tensor_prefetch(const TensorMap&) {}
inline void tensor_load_2d(u32 shared, const TensorMap& map, u32 barrier, i32 x, i32 y) {
    emulate::tensor_load(shared, map, barrier, x, y, 0);
}
inline void tensor_load_3d(u32 shared, const TensorMap& map, u32 barrier, i32 x, i32 y, i32 z) {
    emulate::tensor_load(shared, map, barrier, x, y, z);
}
inline void tensor_store_2d(const TensorMap& map, u32 shared, i32 x, i32 y) {
    emulate::Tensor t;
    std::memcpy(&t, &map, sizeof t);
    emulate::shared_at(shared, emulate::box_bytes(t), t.swizzle_bytes ? 1024 : 128);
    emulate::expect_fenced(shared, emulate::box_bytes(t), "a copy");
    emulate::Block* b = emulate::block();
    b->current->open_stores.push_back([=] {
        emulate::box(t, {x, y, 0}, [&](u32 offset, u8* to) {
            if (to) std::memcpy(to, b->shared + emulate::swizzled(t, shared + offset), t.element_bytes);
        });
    });
}
inline void tensor_store_commit() {
    emulate::Thread* t = emulate::block()->current;
    t->stores.push_back(std::move(t->open_stores));
    t->open_stores.clear();
}
template <i32 left>
void tensor_store_wait() {
    emulate::Thread* t = emulate::block()->current;
    while (t->stores.size() > size_t(left)) {
        for (auto& store : t->stores.front()) store();
        t->stores.pop_front();
    }
}
template <i32 left>
void tensor_store_wait_read() {
    tensor_store_wait<left>();
}
inline void shared_fence() {
    emulate::Block* b = emulate::block();
    for (u32 word : b->current->unfenced)
        if (b->unfenced[word] == b->current->flat + 1) b->unfenced[word] = 0;
    b->current->unfenced.clear();
}

namespace emulate {
/// A warp's registers become `count` a thread; those beyond come from the block's, or go there. The
/// instruction is a warpgroup's, but each of its warps waits for itself.
inline void share_registers(u32 count, bool takes) {
    if (count % 8 != 0 || count < 24 || count > 256) fault(std::to_string(count) + " registers");
    __syncwarp();
    Block* b = block();
    if (b->current->flat % 32 == 0) {
        u32& now = b->registers[b->current->flat / 32];
        if (takes ? count < now : count > now)
            fault("from " + std::to_string(now) + " registers to " + std::to_string(count));
        if (takes) wait_until([&] { return b->free_registers >= (count - now) * 32; });
        b->free_registers += (now - count) * 32;  // modulo 2^32 where it takes
        now = count;
    }
    __syncwarp();
}
}  // namespace emulate

template <i32 count>
void registers_give() {
    emulate::share_registers(count, false);
}
template <i32 count>
void registers_take() {
    emulate::share_registers(count, true);
}

inline void wgmma_fence() { emulate::block()->current->fenced = true; }
inline void wgmma_commit() {
    emulate::Thread* t = emulate::block()->current;
    t->product_groups.push_back(t->products);
}
template <i32 left>
void wgmma_wait() {
    emulate::Block* b = emulate::block();
    emulate::Thread* t = b->current;
    t->fenced = false;
    if (t->product_groups.size() <= size_t(left)) return;
    size_t until = t->product_groups[t->product_groups.size() - 1 - left];
    auto& products = b->warpgroups[t->flat / 128];
    emulate::wait_until([&] {
        for (size_t i = 0; i < until; ++i)
            if (products[i].arrived < 128) return false;
        return true;
    });
    for (size_t i = 0; i < until; ++i)
        if (!products[i].done) emulate::carry_out(products[i]);
}
template <i32 count>
void wgmma_hold(f32 (&)[count]) {}
inline u32 computed_here(u32 x) { return x; }

template <i32 a_mn, i32 b_mn, size_t count>
void wgmma(f32 (&d)[count], u64 a, u64 b, i32 accumulate) {
    emulate::issue(d, i32(2 * count), nullptr, a, b, a_mn, b_mn, accumulate);
}
template <i32 b_mn, size_t count>
void wgmma_registers(f32 (&d)[count], const u32 (&a)[4], u64 b, i32 accumulate) {
    std::array<u32, 4> registers = {a[0], a[1], a[2], a[3]};
    emulate::issue(d, i32(2 * count), &registers, 0, b, 0, b_mn, accumulate);
}
