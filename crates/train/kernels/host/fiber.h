// Fibers: many stacks on one host thread. On x86-64 a switch is a dozen instructions; elsewhere it is
// POSIX's swapcontext, which also asks the kernel for the signal mask and takes ten times as long.
#pragma once
#include <vector>

namespace emulate {

#if defined(__x86_64__)

struct Fiber {
    void* stack_pointer = nullptr;
};

// Keeps the registers that a call must keep on this stack, and takes those of the other stack up.
extern "C" __attribute__((visibility("hidden"))) void emulate_switch(void** from, void* to);
asm(R"(
    .text
    .hidden emulate_switch
    .globl emulate_switch
emulate_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

inline void switch_fiber(Fiber& from, Fiber& to) {
    emulate_switch(&from.stack_pointer, to.stack_pointer);
}

/// Prepares a fiber that begins at `entry`, which never returns.
inline void start_fiber(Fiber& fiber, std::vector<unsigned char>& stack, void (*entry)()) {
    auto top = reinterpret_cast<unsigned long long>(stack.data() + stack.size()) / 16 * 16;
    auto* words = reinterpret_cast<unsigned long long*>(top);
    words[-1] = 0;  // in the place of a return address: a stack as a call leaves it
    words[-2] = reinterpret_cast<unsigned long long>(entry);
    for (int i = 3; i <= 8; ++i) words[-i] = 0;
    fiber.stack_pointer = words - 8;
}

#else
}  // namespace emulate
#include <ucontext.h>
namespace emulate {

struct Fiber {
    ucontext_t context;
};

inline void switch_fiber(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }

/// Prepares a fiber that begins at `entry`, which never returns.
inline void start_fiber(Fiber& fiber, std::vector<unsigned char>& stack, void (*entry)()) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stack.data();
    fiber.context.uc_stack.ss_size = stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
}

#endif

}  // namespace emulate
