// A multiprocessor in plain C++: what each instruction of device.cuh and hopper.cuh does, so that
// the kernels run on any host, thread for thread, and are tested without a card. It is strict where
// the card is treacherous: asynchronous work happens as late as the program's waits allow, threads
// run in an order drawn anew at every step, and misaligned addresses, deadlocks, fences that are missing
// between ordinary and asynchronous work, and registers that nobody has given end the run with the
// kernel's name. It is no model of speed.
//
// One block runs at a time; its threads are fibers on one host thread.
//
// Sources: PTX ISA 8.7; for the canonical layouts of matrix descriptors, its section on wgmma.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#define DEVICE inline
#define HOST_DEVICE inline
#define __shared__ static
#define __restrict__
#define KERNEL(name, ...)                                            \
    extern "C" void name(__VA_ARGS__);                               \
    static const emulate::Registered registered_##name(#name, name); \
    extern "C" void name(__VA_ARGS__)
#define KERNEL_BOUNDS(name, threads, blocks, ...)                           \
    static const emulate::Bounded bounded_##name(#name, threads);            \
    KERNEL(name, __VA_ARGS__)
#define GRID_CONSTANT const
#define DYNAMIC_SHARED(name) u8* const name = emulate::shared_memory()

#include "fiber.h"

namespace emulate {

struct Dim3 {
    u32 x = 1, y = 1, z = 1;
};

constexpr u32 SHARED_BYTES = 232448;  // what a block of a Hopper card can have
constexpr u32 POISON = 0xfffbadff;    // a NaN in bf16 halves and in f32

/// One product by a warpgroup, put off until somebody waits for it.
struct Product {
    u32 arrived = 0;
    bool done = false;
    std::vector<f32*> d;
    std::vector<std::array<u32, 4>> a_registers;
    bool from_registers = false;
    u64 a = 0, b = 0;
    i32 a_mn = 0, b_mn = 0, width = 0, accumulate = 0;
};

struct Thread {
    Fiber fiber;
    std::vector<u8> stack;
    Dim3 index;
    u32 flat = 0;
    bool done = false;
    // cp.async: copies of the open group, and closed groups, oldest first.
    std::vector<std::function<void()>> open_copies;
    std::deque<std::vector<std::function<void()>>> copies;
    // cp.async.bulk stores, likewise.
    std::vector<std::function<void()>> open_stores;
    std::deque<std::vector<std::function<void()>>> stores;
    // wgmma: how many products were issued, and how many each committed group reaches.
    size_t products = 0;
    std::vector<size_t> product_groups;
    // Whether wgmma_fence came since registers of products were last the program's.
    bool fenced = false;
    // Words of shared memory that it wrote and did not fence; whether it set up barriers and did not.
    std::vector<u32> unfenced;
    bool unfenced_barriers = false;
};

/// Threads that do something together: values in, values out, two rounds kept apart.
struct Meeting {
    u32 arrived = 0;
    u64 round = 0;
    std::vector<std::vector<u8>> in[2], out[2];
};

struct Barrier {
    u32 arrived = 0;
    u64 round = 0;
};

struct Block {
    const char* kernel = "";
    Dim3 grid, size, index;
    std::vector<std::unique_ptr<Thread>> threads;
    Thread* current = nullptr;
    Fiber scheduler;
    std::vector<u8> shared_storage;
    u8* shared = nullptr;
    u32 shared_bytes = 0;
    std::vector<Meeting> warps;
    std::vector<std::deque<Product>> warpgroups;
    std::vector<u32> registers;  // of a thread of each warp
    u32 free_registers = 0;
    // By word of shared memory: one more than the thread whose ordinary write asynchronous work must not
    // meet yet, or 0.
    std::vector<u16> unfenced;
    Barrier barriers[16];
    std::vector<std::function<void()>> engine;  // copies under way
    u64 progress = 0;
    u64 random = 0x9e3779b97f4a7c15ull;
    std::function<void()> body;
};

inline Block*& block() {
    static Block* current = nullptr;
    return current;
}

[[noreturn]] inline void fault(const std::string& what) {
    Block* b = block();
    if (b != nullptr && b->current != nullptr) {
        std::fprintf(stderr, "%s, block (%u, %u, %u), thread %u: %s\n", b->kernel, b->index.x,
                     b->index.y, b->index.z, b->current->flat, what.c_str());
    } else {
        std::fprintf(stderr, "%s: %s\n", b != nullptr ? b->kernel : "emulation", what.c_str());
    }
    std::abort();
}

inline u64 draw() {
    u64& x = block()->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

inline u8* shared_memory() { return block()->shared; }

inline void yield() {
    Block* b = block();
    switch_fiber(b->current->fiber, b->scheduler);
}

template <class Condition>
void wait_until(Condition condition) {
    while (!condition()) yield();
    ++block()->progress;
}

// Kernels by name, with their arguments as the driver passes them: pointers to each.
struct Kernel {
    std::function<void(void**)> call;
    std::vector<u32> sizes;
};
inline std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}
/// The most threads of a block, of kernels that are compiled for so many.
inline std::map<std::string, u32>& bounds() {
    static std::map<std::string, u32> all;
    return all;
}
struct Bounded {
    Bounded(const char* name, u32 threads) { bounds()[name] = threads; }
};
template <class... A, size_t... I>
void call(void (*f)(A...), void** arguments, std::index_sequence<I...>) {
    f(*static_cast<std::remove_const_t<A>*>(arguments[I])...);
}
struct Registered {
    template <class... A>
    Registered(const char* name, void (*f)(A...)) {
        kernels()[name] = {[f](void** arguments) {
                               call(f, arguments, std::index_sequence_for<A...>{});
                           },
                           {u32(sizeof(A))...}};
    }
};

inline void enter() {
    Block* b = block();
    b->body();
    Thread* t = b->current;
    for (auto& group : t->stores)
        for (auto& store : group) store();
    if (!t->open_stores.empty()) fault("ends with stores that were not committed");
    if (t->product_groups.empty() ? t->products > 0 : t->product_groups.back() < t->products)
        fault("ends with products that were not committed");
    for (auto& product : b->warpgroups[t->flat / 128])
        if (product.d[t->flat % 128] != nullptr && !product.done) fault("ends with products under way");
    t->done = true;
    ++b->progress;
    switch_fiber(t->fiber, b->scheduler);
}

inline void run_block(Block& b) {
    for (auto& t : b.threads) {
        start_fiber(t->fiber, t->stack, enter);
        t->done = false;
        t->copies.clear();
        t->open_copies.clear();
        t->stores.clear();
        t->open_stores.clear();
        t->products = 0;
        t->product_groups.clear();
        t->fenced = false;
        t->unfenced.clear();
        t->unfenced_barriers = false;
    }
    // What a thread has where the compiler shares all out, in eights.
    u32 each = std::min<u32>(65536 / u32(b.threads.size()) / 8 * 8, 255);
    for (auto& registers : b.registers) registers = each;
    b.free_registers = 0;
    std::fill(b.unfenced.begin(), b.unfenced.end(), u16(0));
    u32* words = reinterpret_cast<u32*>(b.shared);
    for (u32 i = 0; i < SHARED_BYTES / 4; ++i) words[i] = POISON;
    for (auto& w : b.warps) w = Meeting{};
    for (auto& w : b.warpgroups) w.clear();
    for (auto& barrier : b.barriers) barrier = Barrier{};
    b.engine.clear();
    size_t left = b.threads.size(), count = left, idle = 0;
    while (left > 0) {
        u64 before = b.progress;
        size_t start = draw() % count;
        for (size_t i = 0; i < count; ++i) {
            Thread* t = b.threads[(start + i) % count].get();
            if (t->done) continue;
            b.current = t;
            switch_fiber(b.scheduler, t->fiber);
            if (t->done) --left;
        }
        b.current = nullptr;
        if (!b.engine.empty()) {
            size_t pick = draw() % b.engine.size();
            auto copy = std::move(b.engine[pick]);
            b.engine.erase(b.engine.begin() + i64(pick));
            copy();
            ++b.progress;
        }
        idle = b.progress == before ? idle + 1 : 0;
        if (idle > 3 && left > 0) {
            std::string who;
            for (auto& t : b.threads)
                if (!t->done && who.size() < 100) who += " " + std::to_string(t->flat);
            fault("deadlock; waiting threads:" + who);
        }
    }
}

inline void launch(const char* kernel, Dim3 grid, Dim3 size, u32 shared_bytes, void** arguments) {
    auto found = kernels().find(kernel);
    if (found == kernels().end()) fault(std::string("no kernel is called ") + kernel);
    if (shared_bytes > SHARED_BYTES) fault("more shared memory than a block can have");
    // The compiler's checks of addresses end here.
    std::signal(SIGILL, [](int) { fault("an address that is not aligned"); });
    std::signal(SIGTRAP, [](int) { fault("an address that is not aligned"); });
    static std::map<u32, std::unique_ptr<Block>> blocks;  // by threads: stacks are kept
    u32 count = size.x * size.y * size.z;
    auto& slot = blocks[count];
    if (!slot) {
        slot = std::make_unique<Block>();
        slot->shared_storage.resize(SHARED_BYTES + 1024);
        auto address = reinterpret_cast<uintptr_t>(slot->shared_storage.data());
        slot->shared = reinterpret_cast<u8*>((address + 1023) / 1024 * 1024);
        for (u32 i = 0; i < count; ++i) {
            slot->threads.push_back(std::make_unique<Thread>());
            slot->threads.back()->stack.resize(128 * 1024);
        }
        slot->warps.resize((count + 31) / 32);
        slot->registers.resize((count + 31) / 32);
        slot->unfenced.resize(SHARED_BYTES / 4);
        slot->warpgroups.resize((count + 127) / 128);
    }
    Block& b = *slot;
    block() = &b;
    b.kernel = kernel;
    b.grid = grid;
    b.size = size;
    b.shared_bytes = shared_bytes;
    for (u32 i = 0; i < count; ++i) {
        b.threads[i]->flat = i;
        b.threads[i]->index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    }
    b.body = [&] { found->second.call(arguments); };
    for (b.index.z = 0; b.index.z < grid.z; ++b.index.z)
        for (b.index.y = 0; b.index.y < grid.y; ++b.index.y)
            for (b.index.x = 0; b.index.x < grid.x; ++b.index.x) run_block(b);
    block() = nullptr;
}

/// What `group` threads do together once all have come: `together(in, out)`, values by thread.
template <class In, class Out, class Together>
Out meet(Meeting& meeting, u32 group, u32 place, const In& in, Together together) {
    u64 round = meeting.round;
    auto& ins = meeting.in[round % 2];
    auto& outs = meeting.out[round % 2];
    if (ins.size() != group) {
        ins.assign(group, {});
        outs.assign(group, {});
    }
    ins[place].resize(sizeof(In));
    std::memcpy(ins[place].data(), &in, sizeof(In));
    if (++meeting.arrived == group) {
        std::vector<In> values(group);
        std::vector<Out> results(group);
        for (u32 i = 0; i < group; ++i) {
            if (ins[i].size() != sizeof(In)) fault("lanes of a warp at different instructions");
            std::memcpy(&values[i], ins[i].data(), sizeof(In));
        }
        together(values, results);
        for (u32 i = 0; i < group; ++i) {
            outs[i].resize(sizeof(Out));
            std::memcpy(outs[i].data(), &results[i], sizeof(Out));
        }
        meeting.arrived = 0;
        ++meeting.round;
        ++block()->progress;
    } else {
        wait_until([&] { return meeting.round != round; });
    }
    Out out;
    std::memcpy(&out, outs[place].data(), sizeof(Out));
    return out;
}

template <class In, class Out, class Together>
Out warp_meet(const In& in, Together together) {
    Block* b = block();
    u32 flat = b->current->flat, warp = flat / 32;
    u32 lanes = std::min<u32>(32, u32(b->threads.size()) - warp * 32);
    return meet<In, Out>(b->warps[warp], lanes, flat % 32, in, together);
}

inline u8* shared_at(u32 address, u32 bytes, u32 alignment) {
    Block* b = block();
    if (address % alignment != 0)
        fault("shared address " + std::to_string(address) + " is not a multiple of " +
              std::to_string(alignment));
    if (u64(address) + bytes > b->shared_bytes)
        fault("shared address " + std::to_string(address) + " is past the " +
              std::to_string(b->shared_bytes) + " bytes asked for");
    return b->shared + address;
}

inline void sync_at(u32 id, u32 threads, bool wait) {
    if (id > 15) fault("barrier " + std::to_string(id) + ": there are 16");
    if (id > 0 && (threads % 32 != 0 || threads > block()->threads.size()))
        fault("barrier " + std::to_string(id) + " for " + std::to_string(threads) + " threads");
    Barrier& barrier = block()->barriers[id];
    u64 round = barrier.round;
    ++block()->progress;
    if (++barrier.arrived == threads) {
        barrier.arrived = 0;
        ++barrier.round;
    } else if (wait) {
        wait_until([&] { return barrier.round != round; });
    }
}

}  // namespace emulate

// ---------------------------------------------------------------------------------------------
// What the language itself gives a kernel

#define threadIdx (emulate::block()->current->index)
#define blockIdx (emulate::block()->index)
#define blockDim (emulate::block()->size)
#define gridDim (emulate::block()->grid)

inline void __syncthreads() { emulate::sync_at(0, u32(emulate::block()->threads.size()), true); }
inline void __threadfence() {}
inline void __syncwarp(u32 = 0xffffffffu) {
    emulate::warp_meet<int, int>(0, [](auto&, auto&) {});
}
template <class T>
T __shfl_sync(u32, T x, i32 lane, i32 width = 32) {
    struct In {
        T x;
        i32 lane;
    };
    return emulate::warp_meet<In, T>({x, lane}, [width](auto& in, auto& out) {
        for (i32 i = 0; i < i32(in.size()); ++i)
            out[i] = in[i / width * width + (in[i].lane & (width - 1))].x;
    });
}
template <class T>
T __shfl_xor_sync(u32, T x, i32 mask, i32 = 32) {
    struct In {
        T x;
        i32 mask;
    };
    return emulate::warp_meet<In, T>({x, mask}, [](auto& in, auto& out) {
        for (size_t i = 0; i < in.size(); ++i) out[i] = in[i ^ size_t(in[i].mask)].x;
    });
}
template <class T>
T __shfl_up_sync(u32, T x, u32 by, i32 width = 32) {
    return emulate::warp_meet<T, T>(x, [by, width](auto& in, auto& out) {
        for (u32 i = 0; i < in.size(); ++i) out[i] = in[i % u32(width) >= by ? i - by : i];
    });
}
template <class T>
T __shfl_down_sync(u32, T x, u32 by, i32 width = 32) {
    return emulate::warp_meet<T, T>(x, [by, width](auto& in, auto& out) {
        for (u32 i = 0; i < in.size(); ++i) out[i] = in[i % u32(width) + by < u32(width) ? i + by : i];
    });
}
inline u32 __ballot_sync(u32, i32 predicate) {
    return emulate::warp_meet<i32, u32>(predicate, [](auto& in, auto& out) {
        u32 all = 0;
        for (size_t i = 0; i < in.size(); ++i) all |= u32(in[i] != 0) << i;
        for (auto& o : out) o = all;
    });
}
inline i32 __popc(u32 x) { return __builtin_popcount(x); }
inline i32 __ffs(i32 x) { return __builtin_ffs(x); }
inline i32 __any_sync(u32 mask, i32 predicate) { return __ballot_sync(mask, predicate) != 0; }
inline u32 __umulhi(u32 a, u32 b) { return u32((u64(a) * b) >> 32); }
template <class T>
T atomicAdd(T* at, T x) {
    T before = *at;
    *at += x;
    return before;
}
template <class T>
T atomicMax(T* at, T x) {
    T before = *at;
    *at = before > x ? before : x;
    return before;
}
inline f32 __expf(f32 x) { return std::exp(x); }
inline f32 __logf(f32 x) { return std::log(x); }
inline f32 rsqrtf(f32 x) { return 1.0f / std::sqrt(x); }
inline f32 __fdividef(f32 a, f32 b) { return a / b; }
inline f32 __fadd_rn(f32 a, f32 b) { return a + b; }
inline f32 __fmul_rn(f32 a, f32 b) { return a * b; }
inline f32 __fdiv_rn(f32 a, f32 b) { return a / b; }
inline f32 __fsqrt_rn(f32 x) { return std::sqrt(x); }
inline f32 __ldg(const f32* p) { return *p; }
inline f32 __int_as_float(i32 x) {
    f32 y;
    std::memcpy(&y, &x, 4);
    return y;
}

// ---------------------------------------------------------------------------------------------
// device.cuh

inline f32 exp2_fast(f32 x) { return std::exp2(x); }
inline void barrier_sync(u32 id, u32 threads) { emulate::sync_at(id, threads, true); }
inline void barrier_arrive(u32 id, u32 threads) { emulate::sync_at(id, threads, false); }

inline u32 shared_address(const void* pointer) {
    auto* p = static_cast<const u8*>(pointer);
    emulate::Block* b = emulate::block();
    if (p < b->shared || p >= b->shared + emulate::SHARED_BYTES)
        emulate::fault("the address of something that is not in dynamic shared memory");
    return u32(p - b->shared);
}

inline void store_shared_u32(u32 shared, u32 value) {
    std::memcpy(emulate::shared_at(shared, 4, 4), &value, 4);
    emulate::Block* b = emulate::block();
    b->unfenced[shared / 4] = u16(b->current->flat + 1);
    b->current->unfenced.push_back(shared / 4);
}
inline void clear_shared_16(u32 shared) {
    emulate::shared_at(shared, 16, 16);
    for (u32 i = 0; i < 4; ++i) store_shared_u32(shared + 4 * i, 0);
}
inline u32 load_shared_u32(u32 shared) {
    u32 value;
    std::memcpy(&value, emulate::shared_at(shared, 4, 4), 4);
    return value;
}

inline void copy_async_16(u32 shared, const void* global, u32 bytes = 16) {
    if (reinterpret_cast<uintptr_t>(global) % 16 != 0)
        emulate::fault("copy_async_16 from an address that is not a multiple of 16");
    u8* to = emulate::shared_at(shared, 16, 16);
    emulate::block()->current->open_copies.push_back([=] {
        std::memset(to, 0, 16);
        std::memcpy(to, global, bytes);
    });
}
inline void copy_async_commit() {
    emulate::Thread* t = emulate::block()->current;
    t->copies.push_back(std::move(t->open_copies));
    t->open_copies.clear();
}
template <i32 left>
void copy_async_wait() {
    emulate::Thread* t = emulate::block()->current;
    while (t->copies.size() > size_t(left)) {
        for (auto& copy : t->copies.front()) copy();
        t->copies.pop_front();
    }
}

namespace emulate {
struct Matrices {
    u32 r[4];
};
template <bool transposed>
void load_matrices(u32 (&r)[4], u32 shared) {
    Matrices all = warp_meet<u32, Matrices>(shared, [](auto& in, auto& out) {
        for (u32 lane = 0; lane < 32; ++lane)
            for (u32 i = 0; i < 4; ++i) {
                u16 pair[2];
                for (u32 c = 0; c < 2; ++c) {
                    u32 row = lane / 4, column = 2 * (lane % 4) + c;
                    if (transposed) std::swap(row, column);
                    std::memcpy(&pair[c], shared_at(in[8 * i + row], 16, 16) + 2 * column, 2);
                }
                out[lane].r[i] = pair[0] | (u32(pair[1]) << 16);
            }
    });
    for (u32 i = 0; i < 4; ++i) r[i] = all.r[i];
}

inline f32 half_of(u32 packed, u32 which) {
    u32 bits = (which ? packed >> 16 : packed & 0xffffu) << 16;
    f32 value;
    std::memcpy(&value, &bits, 4);
    return value;
}
}  // namespace emulate

inline void load_matrix_x4(u32 (&r)[4], u32 shared) { emulate::load_matrices<false>(r, shared); }
inline void load_matrix_x4_transposed(u32 (&r)[4], u32 shared) {
    emulate::load_matrices<true>(r, shared);
}

inline void mma_16x8x16(f32 (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    struct In {
        f32 d[4];
        u32 a[4], b[2];
    };
    struct Out {
        f32 d[4];
    };
    In in;
    std::memcpy(in.d, d, sizeof in.d);
    std::memcpy(in.a, a, sizeof in.a);
    in.b[0] = b0;
    in.b[1] = b1;
    Out out = emulate::warp_meet<In, Out>(in, [](auto& in, auto& out) {
        f32 a[16][16], b[16][8];
        for (u32 lane = 0; lane < 32; ++lane) {
            u32 g = lane / 4, t = lane % 4;
            for (u32 i = 0; i < 4; ++i)
                for (u32 c = 0; c < 2; ++c)
                    a[g + 8 * (i % 2)][2 * t + c + 8 * (i / 2)] =
                        emulate::half_of(in[lane].a[i], c);
            for (u32 i = 0; i < 2; ++i)
                for (u32 c = 0; c < 2; ++c)
                    b[2 * t + c + 8 * i][g] = emulate::half_of(in[lane].b[i], c);
        }
        for (u32 lane = 0; lane < 32; ++lane)
            for (u32 i = 0; i < 4; ++i) {
                u32 row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
                f32 sum = 0;
                for (u32 k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
                out[lane].d[i] = in[lane].d[i] + sum;
            }
    });
    std::memcpy(d, out.d, sizeof out.d);
}
