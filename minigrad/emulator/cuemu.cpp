// The runtime behind cuemu.h: one block after the other, one fiber per thread, every access checked.
//
// Blocks that are launched to run together take turns: each goes on until its threads wait for others' words, or have
// left. Its fibers and what it holds in shared memory are put aside then, until its next turn.
//
// A fiber runs until it has to wait: at a barrier for its block, or for other lanes of its warp. A warp runs until all
// its lanes wait; then the next warp's turn comes. Nothing is left to chance, so what fails once fails again.
//
// Memory. Every array of a launch is copied into a region of its own, gigabytes away from the next, and copied back at
// the end. So an address tells which array it was meant for, and how far beside it is. Each granule of an array has a
// record of who touched it last, from which races are seen no matter in which order the threads happened to run:
//
//   - two accesses of which one writes need something between them: a barrier of the block, or for lanes of one warp
//     __syncwarp(). Shuffles move values but order no memory.
//   - what is in shared memory must have been written by this block, and by more than an unfinished copy.
//
// Faults never return. The fiber is left where it stands, and launch() returns with the message.
#include "cuemu.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <vector>
#if defined(__x86_64__) && !defined(CUEMU_UCONTEXT)
#include <immintrin.h>
#else
#include <ucontext.h>
#endif

extern "C" {
extern char __ehdr_start[] __attribute__((visibility("hidden")));                       // this library, from the linker
extern char _end[] __attribute__((visibility("hidden")));
extern char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));          // where __shared__ puts arrays
extern char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));
}

namespace cuemu {

// ------------------------------------------------------------------------------------------------ fibers

struct Fiber;
void run_thread();

#if defined(__x86_64__) && !defined(CUEMU_UCONTEXT)
// Push the registers that a function must preserve, change stacks, pop. The ABI lets everything else be lost in a call.
extern "C" void cuemu_switch(void** save, void* to);
asm(R"(
.text
.type cuemu_switch,@function
cuemu_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
)");
struct Context {
    void* stack_pointer;
    void start(char* stack, size_t bytes) {
        void** top = (void**)(stack + bytes);
        *--top = nullptr;                                   // keeps the stack aligned as after a call
        *--top = (void*)run_thread;
        stack_pointer = top - 6;                            // six registers, of any value
    }
    void leave_for(Context& other) { cuemu_switch(&stack_pointer, other.stack_pointer); }
};
struct Arithmetic {                                         // CuPy compiles with -ftz=true: denormals count as zero
    unsigned before = _mm_getcsr();
    Arithmetic() { _mm_setcsr(before | 0x8040); }
    ~Arithmetic() { _mm_setcsr(before); }
};
#else
struct Context {
    ucontext_t u;
    void start(char* stack, size_t bytes) {
        getcontext(&u);
        u.uc_stack.ss_sp = stack, u.uc_stack.ss_size = bytes, u.uc_link = nullptr;
        makecontext(&u, run_thread, 0);
    }
    void leave_for(Context& other) { swapcontext(&u, &other.u); }
};
struct Arithmetic {};
#endif

struct Copy { char* to; const char* from; int bytes, group; };
struct InProduct { char* begin; size_t bytes; int group; bool only_read; };          // local variables, in a wgmma
typedef std::vector<uint32_t> Clock;                        // hopper.h says of what

struct Fiber {
    Context context;
    dim3 index;
    char* stack;
    unsigned number;                                        // in the block
    unsigned mask;                                          // the lanes it waits for, in a warp collective
    const char* waits_in;                                   // nullptr while it runs
    const void* where;                                      // it called from here
    uint32_t words[WORDS];                                  // what it tells the others
    int group, heard;                                       // of cp.async; which of its warp's `told` is for it
    std::vector<Copy> copies;
    int mbarrier, named, products;                          // which it waits for, or -1; groups of wgmma
    std::vector<InProduct> in_products;
    uint32_t proxied;                                       // when its fence.proxy.async was
    Clock seen;
};

struct Warp {
    unsigned present, runnable, in_warp, in_block, in_turn, done;       // a bit per lane
    unsigned synced;                                        // when its __syncwarp() was last complete
    Words told[33][32];                                     // what the lanes said; a lane may be slow to hear it
    int unheard[33];
    bool fenced;                                            // by wgmma.fence
    size_t issued;                                          // how many wgmma
    int registers;                                          // of each thread, by setmaxnreg
};

// ------------------------------------------------------------------------------------------------ memory

struct Record { uint32_t writer, written, reader, read, several; };     // thread numbers in the grid, and when
struct Readers { uint32_t warps, when[32]; };               // which warps of the block, and when last
constexpr int MOST_MBARRIERS = 64;
constexpr uint32_t ATOMICALLY = 0xfffffff0, SEVERAL = 0xfffffff1, LANDED = 0xffff0000, WARP = 0x80000000;     // who
constexpr uint32_t NEVER = 0, COPYING = 0xffffffff, MBARRIER = 0xfffffffe;                                    // when

struct Array {
    char* begin = nullptr;
    size_t bytes = 0, granule = 4;
    std::vector<Record> records;
    bool shared = false;
    void size(size_t n, size_t g) {
        bytes = n, granule = g;
        if (records.size() < (n + g - 1) / g) records.resize((n + g - 1) / g);
    }
};

constexpr size_t REGION = size_t(1) << 32, MIDDLE = REGION / 4;      // an array begins at MIDDLE of its region
constexpr int STACKS = 0, DYNAMIC = 1, FIRST = 2, REGIONS = 34;
constexpr size_t STACK = 64 << 10, STRIDE = STACK + 320;             // not all in the same cache lines
constexpr unsigned MOST_THREADS = 1024;
constexpr size_t MOST_SHARED = 227 << 10;

struct Machine {
    char* arena = nullptr;
    size_t committed[REGIONS] = {};
    Array arrays[REGIONS], fixed;                           // fixed: the __shared__ arrays of fixed size
    int used = FIRST;

    const char* kernel;
    void (*body)(void**);
    void** arguments;
    int n_arguments;
    dim3 grid, block, block_at;
    unsigned threads, block_number;
    bool reversed, early;                                   // the order of warps and lanes; when copies land
    bool clocks;                                            // does each thread keep one?
    std::vector<Readers> several;                           // of shared memory, where there are clocks; 0 is nobody's
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Context scheduler;
    Fiber* current = nullptr;
    uint32_t now = 0, launched, started, synced;            // a clock that ticks at barriers
    uint32_t resumed;                                       // when this turn of the block began
    bool together, news;                                    // are all blocks there at once? has one told another?
    uint64_t patience;

    bool failed;
    char* message;
    const void** where;
} m;

constexpr size_t MESSAGE = 1000;
constexpr uint64_t PATIENCE = uint64_t(1) << 28;            // accesses of one thread between two waits

void say(const void* where, const char* format, va_list list) {
    int n = snprintf(m.message, MESSAGE, "kernel %s", m.kernel);
    if (m.current) {
        dim3 t = m.current->index, b = m.block_at;
        n += snprintf(m.message + n, MESSAGE - n, ", block (%u, %u, %u), thread (%u, %u, %u)", b.x, b.y, b.z, t.x, t.y,
                      t.z);
    }
    n += snprintf(m.message + n, MESSAGE - n, ": ");
    vsnprintf(m.message + n, MESSAGE - n, format, list);
    *m.where = where;
    m.failed = true;
}

[[noreturn]] void stop(const void* where, const char* format, ...) {
    va_list list;
    va_start(list, format);
    say(where, format, list);
    va_end(list);
    m.current->context.leave_for(m.scheduler);
    abort();
}

void fail(const void* where, const char* format, ...) {     // where no fiber runs
    va_list list;
    va_start(list, format);
    say(where, format, list);
    va_end(list);
}

void fault(const char* format, ...) {
    va_list list;
    va_start(list, format);
    say(__builtin_return_address(0), format, list);
    va_end(list);
    m.current->context.leave_for(m.scheduler);
    abort();
}

// Room for the bytes from begin on; what was there before stays.
void commit(int region, size_t bytes) {
    if (bytes <= m.committed[region]) return;
    size_t n = (bytes + 0xffff) & ~size_t(0xffff);
    mprotect(m.arena + region * REGION + MIDDLE, n, PROT_READ | PROT_WRITE);
    m.committed[region] = n;
}

bool reserve() {
    if (m.arena) return true;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* p = mmap(nullptr, REGIONS * REGION, PROT_NONE, flags, -1, 0);
    if (p == MAP_FAILED) return false;
    m.arena = (char*)p;
    return true;
}

const char* name_of(const Array& a) {
    static char text[60];
    if (&a == &m.fixed) return "the __shared__ arrays";
    if (&a == &m.arrays[DYNAMIC]) return "dynamic shared memory";
    if (&a - m.arrays - FIRST >= m.n_arguments) return "the array of a tensor map";
    snprintf(text, sizeof text, "the array of argument %d", int(&a - m.arrays - FIRST));
    return text;
}

const char* name_of_thread(uint32_t t) {
    static char text[100];
    if (t == ATOMICALLY) return "an atomic operation";
    if (t == SEVERAL) return "several threads";
    if (t >= LANDED) return "a copy of a box";
    if (t & WARP) {
        unsigned w = t & ~WARP, per_block = (m.threads + 31) / 32;
        snprintf(text, sizeof text, "several lanes of warp %u of block %u", w % per_block, w / per_block);
        return text;
    }
    unsigned n = t % m.threads, x = n % m.block.x, y = n / m.block.x % m.block.y, z = n / (m.block.x * m.block.y);
    snprintf(text, sizeof text, "thread (%u, %u, %u)", x, y, z);
    if (t / m.threads != m.block_number) {
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, " of block number %u", t / m.threads);
    }
    return text;
}

// By its clock, has this thread seen what `who` did? several: whom SEVERAL and WARP stand for.
bool seen(uint32_t who, uint32_t then, uint32_t several) {
    const Clock& mine = m.current->seen;
    if (who >= LANDED && who < ATOMICALLY) return mine[m.threads + who - LANDED] > then;
    if (!(who & WARP)) return mine[who % m.threads] > then;
    if (!several) return false;
    const Readers& all = m.several[several];
    for (uint32_t left = all.warps; left; left &= left - 1) {
        unsigned warp = __builtin_ctz(left);
        for (unsigned i = warp * 32; i < std::min(warp * 32 + 32, m.threads); i++)
            if (mine[i] <= all.when[warp]) return false;
    }
    return true;
}

// A thread of this warp reads, and others have read since.
void one_of_several(Record& r, unsigned warp, unsigned other_warp) {
    if (!r.several) {
        r.several = uint32_t(m.several.size());
        m.several.push_back({1u << other_warp, {}});
        m.several.back().when[other_warp] = r.read;
    }
    Readers& all = m.several[r.several];
    all.warps |= 1u << warp;
    all.when[warp] = m.now;
}

// Did what happened at time `then`, done by thread (or threads) `who`, surely end before what this thread does now?
inline bool ordered(const Array& a, uint32_t who, uint32_t then, uint32_t me, unsigned my_warp, uint32_t several = 0) {
    if (then < (a.shared ? m.started : m.launched) || who == me) return true;
    unsigned n_warps = (m.threads + 31) / 32;
    uint32_t its_warp = who >= LANDED ? ~0u
        : who & WARP ? who & ~WARP : who / m.threads * n_warps + who % m.threads / 32;
    if (then < m.resumed && !a.shared && its_warp / n_warps != m.block_number) return false;        // another block's
    if (then < m.synced || (m.clocks && seen(who, then, several))) return true;
    return its_warp == m.block_number * n_warps + my_warp && then < m.warps[my_warp].synced;
}

void check_reads(size_t at, size_t bytes, const void* where);

void check_order(Array& a, size_t at, size_t bytes, Kind kind, const void* where) {
    uint32_t me = m.block_number * m.threads + m.current->number;
    unsigned warp = m.current->number / 32;
    for (size_t g = at / a.granule; g <= (at + bytes - 1) / a.granule; g++) {
        Record& r = a.records[g];
        if (r.written == COPYING)
            stop(where, "byte %zu of %s is being written by an asynchronous copy of %s that was not waited for",
                 g * a.granule, name_of(a), name_of_thread(r.writer));
        if (r.written == MBARRIER) stop(where, "byte %zu of %s is part of an mbarrier", g * a.granule, name_of(a));
        if (!ordered(a, r.writer, r.written, me, warp) && !(kind == ATOMIC && r.writer == ATOMICALLY))
            stop(where, "race at byte %zu of %s: %s, and no barrier since %s wrote it", g * a.granule, name_of(a),
                 kind == READ ? "read" : "written", name_of_thread(r.writer));
        if (kind == READ) {
            if (a.shared && r.written < m.started)
                stop(where, "byte %zu of %s is read, and no thread of this block has written it", g * a.granule,
                     name_of(a));
            if (ordered(a, r.reader, r.read, me, warp, r.several)) {
                r.reader = me, r.several = 0;
            } else {
                unsigned warps = (m.threads + 31) / 32, mine = m.block_number * warps + warp;
                uint32_t its = r.reader & WARP ? r.reader & ~WARP
                    : r.reader / m.threads * warps + r.reader % m.threads / 32;
                if (m.clocks && a.shared) one_of_several(r, warp, its % warps);
                if (r.reader != SEVERAL) r.reader = its == mine ? WARP | mine : SEVERAL;
            }
            r.read = m.now;
        } else {
            if (!ordered(a, r.reader, r.read, me, warp, r.several))
                stop(where, "race at byte %zu of %s: written, and no barrier since %s read it", g * a.granule,
                     name_of(a), name_of_thread(r.reader));
            r.writer = kind == ATOMIC ? ATOMICALLY : me;
            r.written = m.now;
        }
    }
    if (kind != READ && m.clocks && &a == &m.arrays[DYNAMIC]) check_reads(at, bytes, where);
}

void check_registers(const void* address, size_t bytes, Kind kind, const void* where);

// Every load and store of a kernel passes through here. aligned: the address must be a multiple of the size.
inline Array* find(const void* address, size_t bytes, Kind kind, bool aligned, const void* where) {
    if (!m.current) return nullptr;
    size_t offset = (const char*)address - m.arena, region = offset / REGION;
    if (region >= REGIONS) {
        if ((const char*)address >= __start_cuda_shared && (const char*)address < __stop_cuda_shared) {
            if (aligned && (uintptr_t)address % bytes)
                stop(where, "%zu bytes at a __shared__ address that is no multiple of %zu", bytes, bytes);
            return &m.fixed;
        }
        bool is_static = (const char*)address >= __ehdr_start && (const char*)address < _end;
        if (is_static && kind == READ) return nullptr;                                          // a constant
        if (is_static)
            stop(where, "writes a static that is not seen as __shared__: it must not stand in a template");
        stop(where, "%s %zu bytes at %p, which is in no array of this launch", kind == READ ? "reads" : "writes", bytes,
             address);
    }
    if (region == STACKS) {
        size_t at = (const char*)address - m.current->stack;
        if (at + bytes > STACK) stop(where, "touches another thread's local variables");
        if (!m.current->in_products.empty()) check_registers(address, bytes, kind, where);
        return nullptr;
    }
    if (++m.patience > PATIENCE) stop(where, "seems to run for ever: %llu accesses without a barrier",
                                      (unsigned long long)PATIENCE);
    Array& a = m.arrays[region];
    size_t at = (const char*)address - a.begin;
    if (at + bytes > a.bytes || at > a.bytes) {
        const char* does = kind == READ ? "reads" : "writes";
        if (!a.begin) stop(where, "%s %zu bytes at %p, far outside every array", does, bytes, address);
        stop(where, "%s bytes %zd to %zd of %s, which has %zu", does, ssize_t(at), ssize_t(at + bytes) - 1,
             name_of(a), a.bytes);
    }
    if (aligned && (uintptr_t)address % bytes)
        stop(where, "%zu bytes at byte %zu of %s: the address is no multiple of %zu", bytes, at, name_of(a), bytes);
    return &a;
}

inline void touched(const void* address, size_t bytes, Kind kind, bool aligned, const void* where) {
    if (Array* a = find(address, bytes, kind, aligned, where))
        if (bytes >= a->granule) check_order(*a, (const char*)address - a->begin, bytes, kind, where);
}

void touch(const void* address, size_t bytes, Kind kind) {
    touched(address, bytes, kind, true, __builtin_return_address(0));
}

// ------------------------------------------------------------------------------------------------ waiting

int next_lane(const Warp& w) { return m.reversed ? 31 - __builtin_clz(w.runnable) : __builtin_ctz(w.runnable); }

// Another lane of the warp that can go on, or the scheduler.
void wait() {
    Fiber* me = m.current;
    Warp& w = m.warps[me->number / 32];
    if (w.runnable) {
        m.current = &m.fibers[me->number / 32 * 32 + next_lane(w)];
        me->context.leave_for(m.current->context);
    } else {
        me->context.leave_for(m.scheduler);
    }
    m.patience = 0;
}

// These lanes of a warp have seen what each of them had seen, and done.
void share_clocks(Fiber* first, unsigned lanes) {
    Clock all(first->seen.size());
    for (unsigned left = lanes; left; left &= left - 1) {
        Fiber& f = first[__builtin_ctz(left)];
        f.seen[f.number] = m.now;
        for (size_t i = 0; i < all.size(); i++) all[i] = std::max(all[i], f.seen[i]);
    }
    for (unsigned left = lanes; left; left &= left - 1) first[__builtin_ctz(left)].seen = all;
}

const Words* meet(unsigned mask, const char* what, const void* mine, int words) {
    Fiber* me = m.current;
    Fiber* first = me - me->number % 32;
    Warp& w = m.warps[me->number / 32];
    unsigned bit = 1u << me->number % 32;
    const void* where = __builtin_return_address(0);
    if (!(mask & bit))
        stop(where, "calls %s with mask %08x, in which its own lane %u is missing", what, mask, me->number % 32);
    if (unsigned gone = mask & w.done)
        stop(where, "waits in %s for lane %d, which has left", what, __builtin_ctz(gone));
    me->mask = mask, me->waits_in = what, me->where = where;
    if (words) memcpy(me->words, mine, words * 4);
    w.in_warp |= bit, w.runnable &= ~bit;
    if ((w.in_warp & mask) == (mask & w.present)) {         // the last to come tells everybody
        int k = 0;
        while (w.unheard[k]) k++;
        auto told = w.told[k];
        for (int i = 0; i < 32; i++) {
            bool here = mask & w.present & 1u << i;
            if (here && (first[i].mask != mask || strcmp(first[i].waits_in, what)))
                stop(where, "calls %s with mask %08x while lane %d calls %s with mask %08x", what, mask, i,
                     first[i].waits_in, first[i].mask);
            if (here) memcpy(told[i], first[i].words, words * 4);
            else memset(told[i], 0xff, words * 4);
        }
        for (unsigned left = mask & w.present; left; left &= left - 1) {
            Fiber& f = first[__builtin_ctz(left)];
            f.waits_in = nullptr, f.heard = k;
        }
        w.unheard[k] = __builtin_popcount(mask & w.present) - 1;
        w.in_warp &= ~mask;
        w.runnable |= mask & w.present;
        if (!strcmp(what, "__syncwarp")) {
            w.synced = ++m.now;
            if (m.clocks) share_clocks(first, mask & w.present);
        }
        return told;
    }
    wait();
    w.unheard[me->heard]--;
    return w.told[me->heard];
}

void wait_for_block(const void* where) {
    Fiber* me = m.current;
    Warp& w = m.warps[me->number / 32];
    unsigned bit = 1u << me->number % 32;
    w.in_block |= bit, w.runnable &= ~bit;
    me->waits_in = "__syncthreads", me->where = where;
    wait();
    me->waits_in = nullptr;
}

void let_others() {
    Fiber* me = m.current;
    Warp& w = m.warps[me->number / 32];
    unsigned bit = 1u << me->number % 32;
    if (!m.together)
        stop(__builtin_return_address(0), "waits for other blocks, which were not launched to run together");
    w.in_turn |= bit, w.runnable &= ~bit;
    me->waits_in = "let_others", me->where = __builtin_return_address(0);
    wait();
    me->waits_in = nullptr;
}

void told() { m.news = true; }

// ------------------------------------------------------------------------------------------------ asynchronous copies

void copy_async(void* to, const void* from, int bytes) {
    const void* where = __builtin_return_address(0);
    Fiber* me = m.current;
    touched(from, bytes, READ, true, where);
    Array* a = find(to, bytes, WRITE, true, where);
    if (!a || !a->shared) stop(where, "an asynchronous copy to what is not shared memory");
    size_t at = (char*)to - a->begin;
    check_order(*a, at, bytes, WRITE, where);
    for (size_t g = at / a->granule; g <= (at + bytes - 1) / a->granule; g++) a->records[g].written = COPYING;
    if (m.early) memcpy(to, from, bytes);
    me->copies.push_back({(char*)to, (const char*)from, bytes, me->group});
}

void commit_copies() { m.current->group++; }

void wait_copies(int groups_left) {
    Fiber* me = m.current;
    size_t kept = 0;
    for (Copy c : me->copies) {
        if (c.group >= me->group - groups_left) {
            me->copies[kept++] = c;
            continue;
        }
        if (!m.early) memcpy(c.to, c.from, c.bytes);
        Array& a = c.to >= m.arena && c.to < m.arena + REGIONS * REGION ? m.arrays[DYNAMIC] : m.fixed;
        for (size_t g = (c.to - a.begin) / a.granule; g <= (c.to - a.begin + c.bytes - 1) / a.granule; g++)
            a.records[g].written = m.now;
    }
    me->copies.resize(kept);
}

#include "hopper.h"

// ------------------------------------------------------------------------------------------------ scheduling

void run_thread() {
    m.patience = 0;
    m.body(m.arguments);
    Fiber* me = m.current;
    Warp& w = m.warps[me->number / 32];
    unsigned bit = 1u << me->number % 32;
    if (!me->copies.empty()) stop(me->where, "left before its asynchronous copies were waited for");
    if (!me->in_products.empty()) stop(me->where, "left before its wgmma was waited for");
    w.runnable &= ~bit, w.done |= bit;
    wait();
    abort();                                                // nobody resumes it
}

// Nobody can go on: say of one of those who wait what it waits for.
void explain() {
    if (explain_barriers()) return;
    const Fiber *waiting = nullptr, *gone = nullptr, *in_warp = nullptr, *looking = nullptr;
    for (Fiber& f : m.fibers) {
        const Warp& w = m.warps[f.number / 32];
        unsigned bit = 1u << f.number % 32;
        if (w.done & bit) gone = gone ? gone : &f;
        else if (w.in_turn & bit) looking = looking ? looking : &f;
        else if (w.in_block & bit) waiting = waiting ? waiting : &f;
        else in_warp = in_warp ? in_warp : &f;
    }
    if (looking) {
        m.current = const_cast<Fiber*>(looking);
        return fail(looking->where, "deadlock: waits for a word of another block, which nobody will tell");
    }
    const Fiber* me = in_warp ? in_warp : waiting;
    const Fiber* other = in_warp ? nullptr : gone;
    if (in_warp)
        for (Fiber& f : m.fibers)
            if (f.number / 32 == me->number / 32 && me->mask >> f.number % 32 & 1 &&
                !(m.warps[f.number / 32].in_warp >> f.number % 32 & 1)) other = &f;
    m.current = const_cast<Fiber*>(me);
    if (!other) return fail(me->where, "deadlock: waits in %s, and nobody can go on", me->waits_in);
    dim3 t = other->index;
    fail(me->where, "waits in %s for ever: thread (%u, %u, %u) %s%s", me->waits_in, t.x, t.y, t.z,
         other->waits_in ? "waits in " : "has left", other->waits_in ? other->waits_in : "");
}

void start_block() {
    unsigned n = m.threads, n_warps = (n + 31) / 32;
    m.started = m.synced = m.resumed = ++m.now;
    forget_block();
    for (unsigned i = 0; i < n_warps; i++) {
        Warp& w = m.warps[i];
        w.present = n - i * 32 < 32 ? (1u << (n - i * 32)) - 1 : ~0u;
        w.runnable = w.present, w.in_warp = w.in_block = w.in_turn = w.done = 0, w.synced = m.now;
        std::fill(w.unheard, w.unheard + 33, 0);
    }
    for (unsigned i = 0; i < n; i++) {
        Fiber& f = m.fibers[i];
        f.number = i, f.index = {i % m.block.x, i / m.block.x % m.block.y, i / (m.block.x * m.block.y)};
        f.stack = m.arena + MIDDLE + ((m.together ? m.block_number * n : 0) + i) * STRIDE;
        f.waits_in = nullptr, f.group = 0;
        f.copies.clear();
        f.context.start(f.stack, STACK);
    }
}

// Until all threads have left (true), or it is others' turn (false).
bool run_block() {
    unsigned n_warps = (m.threads + 31) / 32;
    for (;;) {
        bool moved = false, all_done = true, all_there = true, in_turn = false;
        for (unsigned k = 0; k < n_warps; k++) {
            unsigned i = m.reversed ? n_warps - 1 - k : k;
            Warp& w = m.warps[i];
            while (w.runnable) {
                moved = true;
                m.current = &m.fibers[i * 32 + next_lane(w)];
                m.scheduler.leave_for(m.current->context);
                if (m.failed) return true;
            }
            all_done &= w.done == w.present;
            all_there &= w.in_block == w.present;
            in_turn |= w.in_turn;
        }
        if (all_done) {
            check_end();
            return true;
        }
        if (all_there) {
            m.synced = ++m.now;
            for (Warp& w : m.warps) w.in_block = 0, w.runnable = w.present;
        } else if (!moved && !land_one()) {
            if (in_turn) return false;
            explain();
            return true;
        }
    }
}

void be_block(size_t k) {
    m.block_number = unsigned(k);
    m.block_at = {unsigned(k % m.grid.x), unsigned(k / m.grid.x % m.grid.y), unsigned(k / m.grid.x / m.grid.y)};
}

void clear_shared() {                                       // NaN, if a kernel trusts what it finds
    for (Array* a : {&m.arrays[DYNAMIC], &m.fixed}) if (a->bytes) memset(a->begin, 0xff, a->bytes);
}

// A block that waits for its turn: shared memory of both kinds, and the records of it.
struct Aside {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<char> bytes[2];
    std::vector<Record> records[2];
    uint32_t started, synced;
    bool gone = false;

    void put() {
        Array* arrays[2] = {&m.arrays[DYNAMIC], &m.fixed};
        for (int i = 0; i < 2; i++) {
            size_t n = (arrays[i]->bytes + arrays[i]->granule - 1) / arrays[i]->granule;
            bytes[i].assign(arrays[i]->begin, arrays[i]->begin + arrays[i]->bytes);
            records[i].assign(arrays[i]->records.begin(), arrays[i]->records.begin() + n);
            std::fill_n(arrays[i]->records.begin(), n, Record());            // copies may be under way there
        }
        fibers.swap(m.fibers), warps.swap(m.warps);
        started = m.started, synced = m.synced;
    }
    void take() {
        Array* arrays[2] = {&m.arrays[DYNAMIC], &m.fixed};
        for (int i = 0; i < 2; i++) {
            std::copy(bytes[i].begin(), bytes[i].end(), arrays[i]->begin);
            std::copy(records[i].begin(), records[i].end(), arrays[i]->records.begin());
        }
        fibers.swap(m.fibers), warps.swap(m.warps);
        m.started = started, m.synced = synced, m.resumed = ++m.now;
        for (Warp& w : m.warps) w.runnable |= w.in_turn, w.in_turn = 0;
    }
};

// All blocks, in turns that end where they wait for each other. In a round in which nobody is told anything and nobody
// leaves, each has gone as far as it ever will.
void run_together(size_t blocks) {
    std::vector<Aside> aside(blocks);
    size_t left = blocks;
    for (bool first = true; left; first = false) {
        m.news = false;
        size_t before = left;
        for (size_t i = 0; i < blocks; i++) {
            size_t k = m.reversed ? blocks - 1 - i : i;
            if (aside[k].gone) continue;
            be_block(k);
            if (first) {
                m.fibers.resize(m.threads), m.warps.resize((m.threads + 31) / 32);
                clear_shared();
                start_block();
            } else {
                aside[k].take();
            }
            aside[k].gone = run_block();
            if (m.failed) return;
            left -= aside[k].gone;
            m.current = nullptr;
            aside[k].put();
        }
        if (!left || left < before || m.news) continue;
        size_t k = 0;
        while (aside[k].gone) k++;
        be_block(k);
        m.fibers.swap(aside[k].fibers), m.warps.swap(aside[k].warps);
        return explain();
    }
}

}  // namespace cuemu

void __syncthreads() { cuemu::wait_for_block(__builtin_return_address(0)); }

dim3 cuemu::thread_index() { return m.current->index; }
dim3 cuemu::block_index() { return m.block_at; }
dim3 cuemu::block_size() { return m.block; }
dim3 cuemu::grid_size() { return m.grid; }
int cuemu::lane() { return m.current->number % 32; }
void* cuemu::dynamic_shared() { return m.arrays[DYNAMIC].begin; }

// ------------------------------------------------------------------------------------------------ for emulator.py

extern "C" {

struct Argument {
    void* data;                                             // an array, or a number's bytes, or a TensorMap's
    size_t bytes, granule;
    int is_array, is_written, is_map;
};

// Run the kernel on the first n_arguments of what is given; the others are what tensor maps speak of. 0, or 1 with the
// message and the address in the code that it is about.
int cuemu_launch(const char* name, void (*body)(void**), const unsigned* grid, const unsigned* block, size_t shared,
                 int n, int n_arguments, const Argument* given, int together, int reversed, int early, char* message,
                 const void** where) {
    using namespace cuemu;
    m.kernel = name, m.body = body, m.message = message, m.where = where, m.failed = false, m.current = nullptr;
    m.n_arguments = n_arguments;
    m.grid = {grid[0], grid[1], grid[2]}, m.block = {block[0], block[1], block[2]};
    m.together = together, m.reversed = reversed, m.early = early, m.threads = block[0] * block[1] * block[2];
    auto refuse = [&](const char* format, ...) {
        va_list list;
        va_start(list, format);
        say(nullptr, format, list);
        va_end(list);
        return 1;
    };
    if (!reserve()) return refuse("no room for %zu GB of addresses", REGIONS * REGION >> 30);
    if (n > REGIONS - FIRST) return refuse("%d arguments; at most %d", n, REGIONS - FIRST);

    std::vector<char*> pointers(n);
    std::vector<void*> arguments(n);
    int regions = FIRST;
    for (int i = 0; i < n; i++) {
        const Argument& a = given[i];
        arguments[i] = a.is_array ? (void*)&pointers[i] : a.data;
        if (!a.is_array || !a.data) continue;
        for (int j = 0; j < i; j++) {
            const Argument& b = given[j];
            if (!b.is_array || (char*)a.data + a.bytes <= b.data || (char*)b.data + b.bytes <= a.data) continue;
            if (a.data != b.data || a.bytes != b.bytes) return refuse("arguments %d and %d overlap", j, i);
            pointers[i] = pointers[j];
        }
        if (pointers[i]) continue;
        if (a.bytes > REGION / 2) return refuse("argument %d has %zu bytes; at most %zu", i, a.bytes, REGION / 2);
        Array& to = m.arrays[FIRST + i];                    // named by its argument
        size_t odd = (uintptr_t)a.data % 16;                // aligned as it was
        commit(FIRST + i, odd + a.bytes);
        to.begin = pointers[i] = m.arena + (FIRST + i) * REGION + MIDDLE + odd;
        to.size(a.bytes, a.granule);
        memcpy(to.begin, a.data, a.bytes);
        regions = FIRST + i + 1;
    }
    for (int i = regions; i < m.used; i++) m.arrays[i].begin = nullptr, m.arrays[i].bytes = 0;
    for (int i = 0; i < n; i++) if (!pointers[i]) m.arrays[FIRST + i].begin = nullptr, m.arrays[FIRST + i].bytes = 0;
    m.used = regions;

    std::vector<TensorMap> maps;
    maps.reserve(n);
    for (int i = 0; i < n; i++) {
        if (!given[i].is_map) continue;
        TensorMap map;
        memcpy((void*)&map, given[i].data, sizeof map);
        for (int j = 0; j < n; j++)
            if (given[j].is_array && map.data >= given[j].data && map.data < (char*)given[j].data + given[j].bytes) {
                map.data = pointers[j] + (map.data - (char*)given[j].data);
                break;
            }
        maps.push_back(map);
        arguments[i] = &maps.back();
    }

    Array& dynamic = m.arrays[DYNAMIC];
    size_t blocks = size_t(grid[0]) * grid[1] * grid[2], stacks = together ? blocks * m.threads : MOST_THREADS;
    if (stacks * STRIDE > REGION / 2) return refuse("%zu blocks of %u threads at once", blocks, m.threads);
    commit(STACKS, stacks * STRIDE);
    commit(DYNAMIC, shared);
    dynamic.begin = m.arena + DYNAMIC * REGION + MIDDLE, dynamic.shared = m.fixed.shared = true;
    dynamic.size(shared, 2);
    m.fixed.begin = __start_cuda_shared;
    m.fixed.size(__stop_cuda_shared - __start_cuda_shared, 2);

    m.arguments = arguments.data();
    if (m.fibers.size() != m.threads) m.fibers.resize(m.threads), m.warps.resize((m.threads + 31) / 32);
    if (m.now > 1u << 30) {                                 // the clock begins again
        m.now = 0;
        for (Array& a : m.arrays) std::fill(a.records.begin(), a.records.end(), Record());
        std::fill(m.fixed.records.begin(), m.fixed.records.end(), Record());
    }
    m.launched = ++m.now;
    {
        Arithmetic as_on_a_gpu;
        if (together) run_together(blocks);
        for (size_t i = 0; i < blocks && !together && !m.failed; i++) {
            be_block(reversed ? blocks - 1 - i : i);
            clear_shared();
            start_block();
            run_block();
            m.current = nullptr;
        }
    }
    m.current = nullptr;
    if (m.failed) {
        for (Array* a : {&dynamic, &m.fixed}) std::fill(a->records.begin(), a->records.end(), Record());
        return 1;
    }
    for (int i = 0; i < n; i++)
        if (given[i].is_array && given[i].is_written && pointers[i]) memcpy(given[i].data, pointers[i], given[i].bytes);
    return 0;
}

size_t cuemu_fixed_shared() { return __stop_cuda_shared - __start_cuda_shared; }
const void* cuemu_base() { return __ehdr_start; }

// ------------------------------------------------------------------------------------------------ for the compiler
// -fsanitize=thread calls these in front of every access, -fsanitize=alignment and =bounds where a check fails.

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
#define HOOKS(n) \
    void __tsan_read##n(void* p) { cuemu::touched(p, n, cuemu::READ, true, __builtin_return_address(0)); } \
    void __tsan_write##n(void* p) { cuemu::touched(p, n, cuemu::WRITE, true, __builtin_return_address(0)); } \
    void __tsan_unaligned_read##n(void* p) { cuemu::touched(p, n, cuemu::READ, false, __builtin_return_address(0)); } \
    void __tsan_unaligned_write##n(void* p) { \
        cuemu::touched(p, n, cuemu::WRITE, false, __builtin_return_address(0)); \
    } \
    void __tsan_volatile_read##n(void* p) { cuemu::touched(p, n, cuemu::READ, true, __builtin_return_address(0)); } \
    void __tsan_volatile_write##n(void* p) { cuemu::touched(p, n, cuemu::WRITE, true, __builtin_return_address(0)); }
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
void __tsan_read_range(void* p, size_t n) { cuemu::touched(p, n, cuemu::READ, false, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t n) { cuemu::touched(p, n, cuemu::WRITE, false, __builtin_return_address(0)); }
void __tsan_vptr_update(void**, void*) {}

void __ubsan_handle_type_mismatch_v1(void*, uintptr_t address) {
    if (cuemu::m.current)
        cuemu::stop(__builtin_return_address(0), "a vector access at address ...%03x, which is misaligned",
                    unsigned(address % 4096));
}
void __ubsan_handle_out_of_bounds(void*, uintptr_t index) {
    cuemu::stop(__builtin_return_address(0), "index %zd is outside its array", ssize_t(index));
}

}  // extern "C"
