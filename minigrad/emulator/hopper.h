// What Hopper does beside the threads: barriers that count bytes, copies of boxes, products of a warpgroup. Part of
// cuemu.cpp. What is marked (PTX) is a reading of NVIDIA's PTX ISA that a card has yet to confirm, by the same tests.
//
// Mbarriers and named barriers order some threads and not others, so here every thread keeps a clock. It says of each
// thread of the block, and of what lands on each mbarrier, up to when this thread has seen all that was done: who waits
// for a barrier has seen what those had seen that arrived.
//
// A copy of a box lands when it is issued (early), or as late as can be: when no thread can go on without it. A product
// is taken when it is issued (early), or at the wait for it.

typedef float Eight __attribute__((vector_size(32)));

struct Mbarrier {
    char* at;
    int arrivals, left;                                     // in a phase, and still to come in this one
    int64_t bytes;                                          // expected and not landed
    uint32_t phase;                                         // how many are complete
    uint32_t made;                                          // when, and by whom
    Fiber* by;
    Clock coming, come;                                     // of those who arrived in this phase, and in the last
};

struct Transfer { char* to; TensorMap map; int at[5], mbarrier; const void* where; };

struct NamedBarrier { unsigned count, come; Clock clock; };

// What the lanes of a warp hand in to wgmma.
struct Factors { float* d; uint64_t a_tile, b_tile; uint32_t a[4], n; bool bf16, a_in_registers, transposed, add; };
static_assert(sizeof(Factors) <= sizeof(Words));

struct Product { Factors lanes[32]; int group; unsigned warp; };

// 16 bytes of dynamic shared memory, as wgmma reads them: masks of warps, and when each of those had waited for it.
struct Reads { uint32_t under_way, done, when[32]; };

struct Hopper {
    std::vector<Mbarrier> mbarriers;
    std::vector<Transfer> transfers;
    NamedBarrier named[16];
    std::vector<Product> products;
    std::vector<Factors> issued[8];                         // by the warpgroups, in order
    std::vector<Reads> reads;
} h;

void join(Clock& clock, const Clock& other) {
    for (size_t i = 0; i < clock.size(); i++) clock[i] = std::max(clock[i], other[i]);
}

// From now on every thread of this block has a clock.
void keep_clocks() {
    if (m.clocks) return;
    m.clocks = true;
    for (Fiber& f : m.fibers) f.seen.assign(m.threads + MOST_MBARRIERS, 0);
    m.several.assign(1, Readers());
    h.reads.assign(m.arrays[DYNAMIC].bytes / 16 + 1, Reads());
}

void tell(Fiber& f, Clock& clock) {
    f.seen[f.number] = ++m.now;
    join(clock, f.seen);
}

void mark(const void* p, size_t bytes, uint32_t when) {
    Array& a = (char*)p >= m.arena && (char*)p < m.arena + REGIONS * REGION ? m.arrays[DYNAMIC] : m.fixed;
    for (size_t g = ((char*)p - a.begin) / a.granule; g <= ((char*)p - a.begin + bytes - 1) / a.granule; g++)
        a.records[g].written = when;
}

void forget_block() {
    for (Mbarrier& b : h.mbarriers) mark(b.at, 8, NEVER);
    h.mbarriers.clear(), h.transfers.clear(), h.products.clear();
    for (NamedBarrier& b : h.named) b = NamedBarrier();
    for (auto& list : h.issued) list.clear();
    for (Fiber& f : m.fibers) f.mbarrier = f.named = -1, f.proxied = 0, f.products = 0, f.in_products.clear();
    for (Warp& w : m.warps) w.fenced = false, w.issued = 0, w.registers = 0;
    m.clocks = false;
}

void sleep(Fiber* me, const char* what, const void* where) {
    m.warps[me->number / 32].runnable &= ~(1u << me->number % 32);
    me->waits_in = what, me->where = where;
    wait();
    me->waits_in = nullptr;
}

void wake(Fiber& f) {
    f.mbarrier = f.named = -1;
    m.warps[f.number / 32].runnable |= 1u << f.number % 32;
}

// ------------------------------------------------------------------------------------------------ mbarrier

// The one at this address, which its maker must have made before this thread uses it.
Mbarrier& mbarrier_at(void* p, const void* where) {
    for (Mbarrier& b : h.mbarriers) {
        if (b.at != p) continue;
        unsigned warp = m.current->number / 32, me = m.block_number * m.threads + m.current->number;
        if (!ordered(m.arrays[DYNAMIC], m.block_number * m.threads + b.by->number, b.made, me, warp))
            stop(where, "uses an mbarrier, and no barrier since %s initialised it", name_of_thread(b.by->number));
        return b;
    }
    stop(where, "uses what is not an initialised mbarrier");
}

void mbarrier_init(void* p, int arrivals) {
    const void* where = __builtin_return_address(0);
    keep_clocks();
    Array* a = find(p, 8, WRITE, true, where);
    if (!a || !a->shared) stop(where, "an mbarrier outside shared memory");
    if (arrivals < 1 || arrivals >= 1 << 20) stop(where, "an mbarrier of %d arrivals; at least 1", arrivals);
    if (h.mbarriers.size() == MOST_MBARRIERS) stop(where, "more than %d mbarriers", MOST_MBARRIERS);
    check_order(*a, (char*)p - a->begin, 8, WRITE, where);
    mark(p, 8, MBARRIER);                                   // no load or store may touch it now
    Clock none(m.current->seen.size(), 0);
    h.mbarriers.push_back({(char*)p, arrivals, arrivals, 0, 0, m.now, m.current, none, none});
}

// A phase ends with its last arrival, when all bytes that were expected have landed (PTX).
void end_phase(Mbarrier& b) {
    if (b.left || b.bytes) return;
    b.phase++, b.left = b.arrivals;
    b.come = b.coming;
    std::fill(b.coming.begin(), b.coming.end(), 0);
    for (Fiber& f : m.fibers) if (f.mbarrier == &b - h.mbarriers.data()) wake(f);
}

void mbarrier_arrive(void* p, int bytes) {
    const void* where = __builtin_return_address(0);
    Mbarrier& b = mbarrier_at(p, where);
    if (!b.left) stop(where, "arrives at an mbarrier at which all %d of this phase have arrived", b.arrivals);
    tell(*m.current, b.coming);
    b.left--, b.bytes += bytes;
    end_phase(b);
}

// Until the phase with this parity is complete. Before the first one counts as one of parity 1 (PTX).
void mbarrier_wait(void* p, int parity) {
    const void* where = __builtin_return_address(0);
    Mbarrier& b = mbarrier_at(p, where);
    Fiber* me = m.current;
    if (parity != 0 && parity != 1) stop(where, "waits for parity %d; 0 or 1", parity);
    if (int(b.phase & 1) == parity) {
        me->mbarrier = int(&b - h.mbarriers.data());
        sleep(me, "mbarrier.try_wait", where);
    }
    join(me->seen, b.come);
}

// ------------------------------------------------------------------------------------------------ named barriers

void named_barrier(int id, int count, bool waits) {
    const void* where = __builtin_return_address(0);
    if (id < 1 || id > 15) stop(where, "barrier %d; 1 to 15, for 0 is __syncthreads", id);
    if (count < 32 || count % 32) stop(where, "a barrier of %d threads; a multiple of 32", count);
    keep_clocks();
    NamedBarrier& b = h.named[id];
    Fiber* me = m.current;
    if (!b.come) b.count = count, b.clock.assign(me->seen.size(), 0);
    if (b.count != unsigned(count))
        stop(where, "comes to barrier %d of %d threads, which others take to be of %u", id, count, b.count);
    tell(*me, b.clock);
    if (++b.come == b.count) {
        b.come = 0;
        if (waits) join(me->seen, b.clock);
        for (Fiber& f : m.fibers) if (f.named == id) join(f.seen, b.clock), wake(f);
    } else if (waits) {
        me->named = id;
        sleep(me, "bar.sync", where);
    }
}

// ------------------------------------------------------------------------------------------------ copies of boxes

void fence_proxy() { m.current->proxied = ++m.now; }

// f(row in shared memory, source of its first entry, how many entries lie before the tensor and how many in it): the
// rows of a box, one below the other. What lies outside is 0.
template<class F> void rows_of(const Transfer& t, F f) {
    const TensorMap& map = t.map;
    int rows = 1;
    for (unsigned d = 1; d < map.rank; d++) rows *= map.box[d];
    for (int r = 0; r < rows; r++) {
        const char* from = map.data + int64_t(t.at[0]) * map.entry;
        bool inside = true;
        for (unsigned d = 1, left = r; d < map.rank; left /= map.box[d++]) {
            int64_t i = int64_t(t.at[d]) + left % map.box[d];
            inside &= i >= 0 && i < int64_t(map.size[d]);
            from += i * int64_t(map.stride[d - 1]);
        }
        int64_t begin = std::max(0, -t.at[0]), end = std::min<int64_t>(map.box[0], int64_t(map.size[0]) - t.at[0]);
        f(t.to + r * 128, from, int(begin), inside ? int(std::max(begin, end) - begin) : 0);
    }
}

// The 16-byte pieces of 128 bytes are exchanged by the bits 7 to 9 of the address (PTX: 128-byte swizzle).
size_t swizzled(size_t offset) { return offset ^ (offset >> 3 & 0x70); }

void land(const Transfer& t) {
    Array& a = m.arrays[DYNAMIC];
    Mbarrier& b = h.mbarriers[t.mbarrier];
    int64_t bytes = 0;
    rows_of(t, [&](char* row, const char* from, int before, int count) {
        char whole[128] = {};
        memcpy(whole + before * t.map.entry, from + before * t.map.entry, count * t.map.entry);
        for (int c = 0; c < 128; c += 16) memcpy(a.begin + swizzled(row - a.begin + c), whole + c, 16);
        for (size_t g = (row - a.begin) / a.granule; g <= (row - a.begin + 127) / a.granule; g++)
            a.records[g].written = m.now, a.records[g].writer = LANDED + t.mbarrier;
        bytes += 128;
    });
    b.coming[m.threads + t.mbarrier] = ++m.now;
    b.bytes -= bytes;                                       // all of the box counts, also what lies outside (PTX)
    end_phase(b);
}

// What threads wrote, copies and products come to after a fence of who wrote it (PTX: the async proxy).
void check_proxy(const Array& a, size_t at, size_t bytes, const char* what, const void* where) {
    for (size_t g = at / a.granule; g < (at + bytes) / a.granule; g++) {
        const Record& r = a.records[g];
        bool by_thread = r.written >= m.started && r.written < MBARRIER && r.writer < LANDED;
        if (by_thread && m.fibers[r.writer % m.threads].proxied <= r.written)
            stop(where, "%s byte %zu of %s, and no fence.proxy.async since %s wrote it", what, g * a.granule,
                 name_of(a), name_of_thread(r.writer));
    }
}

void load_box(void* to, const TensorMap& map, const int* at, unsigned rank, void* mbarrier) {
    const void* where = __builtin_return_address(0);
    Mbarrier& b = mbarrier_at(mbarrier, where);
    if (b.by->proxied <= b.made)
        stop(where, "copies a box to an mbarrier, and no fence.proxy.async since it was initialised");
    if (rank != map.rank) stop(where, "a box of a tensor with %u dimensions, at %u coordinates", map.rank, rank);
    Array* a = find(to, 1, WRITE, true, where);
    if (a != &m.arrays[DYNAMIC]) stop(where, "copies a box to what is not dynamic shared memory");
    if (((char*)to - a->begin) % 128) stop(where, "copies a box to byte %zu, no multiple of 128", (char*)to - a->begin);
    Transfer t = {(char*)to, map, {}, int(&b - h.mbarriers.data()), where};
    std::copy(at, at + rank, t.at);
    rows_of(t, [&](char* row, const char* from, int before, int count) {
        if (count) touched(from + before * map.entry, count * map.entry, READ, false, where);
        find(row, 128, WRITE, false, where);
        check_proxy(*a, row - a->begin, 128, "copies a box to", where);
        check_order(*a, row - a->begin, 128, WRITE, where);
        mark(row, 128, COPYING);
    });
    if (m.early) land(t);
    else h.transfers.push_back(t);
}

// Nobody can go on: one copy lands. Which one is left to the hardware.
bool land_one() {
    if (h.transfers.empty()) return false;
    auto which = m.reversed ? h.transfers.end() - 1 : h.transfers.begin();
    Transfer t = *which;
    h.transfers.erase(which);
    land(t);
    return true;
}

// ------------------------------------------------------------------------------------------------ products

// Where entry k of row (or column) i of a factor lies. tile is a matrix descriptor (PTX): bits 0-13 are the start,
// 16-29 the way from 64 entries to the next 64 if they lie transposed, along i, 32-45 from 8 rows to the next 8, all
// in units of 16 bytes; 62-63 are 1 for the 128-byte swizzle.
size_t place(uint64_t tile, int i, int k, bool transposed) {
    size_t start = (tile & 0x3fff) * 16, leading = (tile >> 16 & 0x3fff) * 16, stride = (tile >> 32 & 0x3fff) * 16;
    size_t straight = transposed ? start + i / 64 * leading + i % 64 * 2 + k / 8 * stride + k % 8 * 128
                                 : start + i / 8 * stride + i % 8 * 128 + k * 2;
    return swizzled(straight);
}

// Every 16 bytes of dynamic shared memory that a factor with n rows (or columns) takes.
template<class F> void pieces(uint64_t tile, int n, bool transposed, F f) {
    if (transposed) for (int k = 0; k < 16; k++) for (int i = 0; i < n; i += 8) f(place(tile, i, k, true));
    else for (int i = 0; i < n; i++) for (int k = 0; k < 16; k += 8) f(place(tile, i, k, false));
}
template<class F> void pieces(const Factors& x, F f) {
    if (!x.a_in_registers) pieces(x.a_tile, 64, false, f);  // all of it: PTX does not say who reads which rows
    pieces(x.b_tile, x.n, x.transposed, f);
}

void check_tile(uint64_t tile, const void* where) {
    if (tile >> 62 != 1) stop(where, "a tile whose descriptor names another layout than the 128-byte swizzle");
    if (tile & 0x38 || tile >> 49 & 7)
        stop(where, "a tile at byte %zu: its pattern must begin at a multiple of 1024", size_t(tile & 0x3fff) * 16);
}

// 16 bytes that a wgmma of this thread's warp is about to read.
void check_piece(size_t at, const void* where) {
    Array& a = m.arrays[DYNAMIC];
    if (at + 16 > a.bytes) stop(where, "a tile reaches byte %zu of %s, which has %zu", at + 15, name_of(a), a.bytes);
    uint32_t me = m.block_number * m.threads + m.current->number;
    for (size_t g = at / a.granule; g < (at + 16) / a.granule; g++) {
        const Record& r = a.records[g];
        if (r.written == COPYING || r.written == MBARRIER || r.written < m.started)
            stop(where, "a wgmma reads byte %zu of %s, %s", g * a.granule, name_of(a), r.written == COPYING
                 ? "into which an asynchronous copy that was not waited for is writing" : r.written == MBARRIER
                 ? "which is part of an mbarrier" : "which no thread of this block has written");
        if (!ordered(a, r.writer, r.written, me, m.current->number / 32))
            stop(where, "race at byte %zu of %s: read by a wgmma, and no barrier since %s wrote it", g * a.granule,
                 name_of(a), name_of_thread(r.writer));
    }
    check_proxy(a, at, 16, "a wgmma reads", where);
}

// What is written must not be read any more.
void check_reads(size_t at, size_t bytes, const void* where) {
    unsigned mine = m.current->number / 32;
    for (size_t c = at / 16; c <= (at + bytes - 1) / 16; c++) {
        Reads& r = h.reads[c];
        if (r.under_way)
            stop(where, "writes byte %zu of dynamic shared memory, which a wgmma of warp %d reads that was not waited "
                 "for", c * 16, __builtin_ctz(r.under_way));
        for (uint32_t left = r.done & ~(1u << mine); left; left &= left - 1) {
            unsigned warp = __builtin_ctz(left);
            auto lanes = m.current->seen.begin() + warp * 32;
            if (r.when[warp] >= m.synced && *std::max_element(lanes, lanes + 32) <= r.when[warp])
                stop(where, "race at byte %zu of dynamic shared memory: written, and no barrier since a wgmma of warp "
                     "%u read it", c * 16, warp);
        }
        r.done = 0;
    }
}

float entry(bool bf16, uint16_t bits) {
    if (bf16) return from_bits(uint32_t(bits) << 16);
    _Float16 e;
    memcpy(&e, &bits, 2);
    return float(e);
}

// The 16 rows of a warp: d += a b. In registers a lies as for mma.sync m16n8k16, and d as a row of its results (PTX).
void multiply(const Product& p) {
    const char* shared = m.arrays[DYNAMIC].begin;
    const Factors& x = p.lanes[0];
    auto stored = [&](uint64_t tile, int i, int k, bool transposed) {
        uint16_t bits;
        memcpy(&bits, shared + place(tile, i, k, transposed), 2);
        return entry(x.bf16, bits);
    };
    static float a[16][16];                                 // a fiber's stack is small
    alignas(32) static float b[16][256], sums[16][256];
    memset(sums, 0, sizeof sums);
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++) {
            uint32_t word = p.lanes[i % 8 * 4 + k % 8 / 2].a[i / 8 + k / 8 * 2];
            a[i][k] = x.a_in_registers ? entry(x.bf16, uint16_t(word >> k % 2 * 16))
                                       : stored(x.a_tile, p.warp % 4 * 16 + i, k, false);
        }
    for (int k = 0; k < 16; k++)
        for (unsigned j = 0; j < x.n; j++) b[k][j] = stored(x.b_tile, j, k, x.transposed);
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            for (unsigned j = 0; j < x.n; j += 8) *(Eight*)(sums[i] + j) += a[i][k] * *(Eight*)(b[k] + j);
    for (int l = 0; l < 32; l++)
        for (unsigned j = 0; j < x.n / 2; j++) {
            float s = sums[l / 4 + j / 2 % 2 * 8][j / 4 * 8 + l % 4 * 2 + j % 2];
            p.lanes[l].d[j] = x.add ? p.lanes[l].d[j] + s : s;
        }
}

void wgmma(float* d, int n, bool bf16, const uint32_t* a, uint64_t a_tile, uint64_t b_tile, bool transposed, bool add) {
    const void* where = __builtin_return_address(0);
    keep_clocks();
    Fiber* me = m.current;
    Factors mine;
    memset((void*)&mine, 0, sizeof mine);
    mine.d = d, mine.n = n, mine.bf16 = bf16, mine.a_in_registers = a, mine.transposed = transposed, mine.add = add;
    mine.a_tile = a ? 0 : a_tile, mine.b_tile = b_tile;
    if (a) memcpy(mine.a, a, sizeof mine.a);
    auto all = meet(~0u, "wgmma.mma_async", &mine, sizeof mine / 4);
    auto same = [&](const Factors& x, const Factors& y) {   // but for d, and a in registers
        return x.a_tile == y.a_tile && x.b_tile == y.b_tile && !memcmp(&x.n, &y.n, sizeof x - offsetof(Factors, n));
    };
    me->in_products.push_back({(char*)d, size_t(n) * 2, me->products, false});
    if (a) me->in_products.push_back({(char*)a, sizeof mine.a, me->products, true});
    if (me->number % 32) return;                            // the first lane does it for all
    Product p;
    p.group = me->products, p.warp = me->number / 32;
    for (int l = 0; l < 32; l++) {
        memcpy((void*)&p.lanes[l], all[l], sizeof mine);
        if (!same(p.lanes[l], mine)) stop(where, "lane %d issues another wgmma than lane 0", l);
    }
    Warp& w = m.warps[p.warp];
    auto& list = h.issued[p.warp / 4];
    if (m.threads % 128) stop(where, "wgmma in a block of %u threads: a warpgroup has 128", m.threads);
    if (w.issued == list.size()) list.push_back(mine);
    if (!same(list[w.issued++], mine)) stop(where, "issues another wgmma than a warp of the same warpgroup");
    if (!w.fenced) stop(where, "wgmma, and no wgmma.fence since registers could be written");
    if (!a) check_tile(a_tile, where);
    check_tile(b_tile, where);
    pieces(mine, [&](size_t at) { check_piece(at, where), h.reads[at / 16].under_way |= 1u << p.warp; });
    if (m.early) multiply(p);
    h.products.push_back(p);
}

void wgmma_fence() {
    meet(~0u, "wgmma.fence");
    m.warps[m.current->number / 32].fenced = true;
}

void wgmma_commit() {
    meet(~0u, "wgmma.commit_group");
    m.current->products++;
}

// All but the last `groups_left` that were committed are done.
void wgmma_wait(int groups_left) {
    Fiber* me = m.current;
    unsigned warp = me->number / 32, bit = 1u << warp;
    int first = me->products - groups_left;                 // the first group that may still be under way
    if (me->number % 32 == 0) {                             // the others have all been where this lane has been
        auto done = [&](const Product& p) { return p.warp == warp && p.group < first; };
        for (const Product& p : h.products)
            if (done(p)) {
                if (!m.early) multiply(p);
                pieces(p.lanes[0], [&](size_t at) {
                    Reads& r = h.reads[at / 16];
                    r.under_way &= ~bit, r.done |= bit, r.when[warp] = m.now;
                });
            }
        h.products.erase(std::remove_if(h.products.begin(), h.products.end(), done), h.products.end());
        for (const Product& p : h.products)
            if (p.warp == warp) pieces(p.lanes[0], [&](size_t at) { h.reads[at / 16].under_way |= bit; });
        m.warps[warp].fenced = false;
    }
    meet(~0u, "wgmma.wait_group");
    auto& in = me->in_products;
    in.erase(std::remove_if(in.begin(), in.end(), [&](const InProduct& p) { return p.group < first; }), in.end());
}

// A local variable that is a register of a wgmma under way.
void check_registers(const void* address, size_t bytes, Kind kind, const void* where) {
    for (const InProduct& p : m.current->in_products)
        if ((char*)address < p.begin + p.bytes && p.begin < (char*)address + bytes && (kind != READ || !p.only_read))
            stop(where, p.only_read ? "writes what a wgmma that was not waited for reads from registers"
                 : "touches the sums of a wgmma that was not waited for");
}

// A multiprocessor has 65536 registers; who wants more than are free waits for ever (PTX: setmaxnreg).
void set_registers(int n) {
    const void* where = __builtin_return_address(0);
    meet(~0u, "setmaxnreg");
    m.warps[m.current->number / 32].registers = n;
    int all = 0;
    for (const Warp& w : m.warps) all += w.registers * 32;
    if (all > 65536) stop(where, "setmaxnreg: the warps of this block want %d registers of 65536", all);
}

// ------------------------------------------------------------------------------------------------ the end of a block

// Nobody can go on. If some wait for mbarriers or named barriers: what each of these barriers lacks.
bool explain_barriers() {
    char text[600];
    size_t n = 0;
    Fiber* first = nullptr;
    std::vector<int> told;
    for (Fiber& f : m.fibers) {
        int key = f.named >= 0 ? -f.named : f.mbarrier;
        if ((f.mbarrier < 0 && f.named < 0) || std::count(told.begin(), told.end(), key)) continue;
        if (n + 150 > sizeof text) break;
        told.push_back(key);
        auto add = [&](auto... words) { n += snprintf(text + n, sizeof text - n, words...); };
        if (first) add("; %s waits", name_of_thread(m.block_number * m.threads + f.number));
        else first = &f;
        if (f.named >= 0) {
            const NamedBarrier& b = h.named[f.named];
            add(" in bar.sync %d: %u of %u threads have come", f.named, b.come, b.count);
        } else {
            const Mbarrier& b = h.mbarriers[f.mbarrier];
            add(" for an mbarrier: its phase %u lacks %d of %d arrivals and %lld bytes", b.phase, b.left, b.arrivals,
                (long long)b.bytes);
        }
    }
    if (!first) return false;
    m.current = first;
    fail(first->where, "deadlock: waits%s", text);
    return true;
}

// All threads have left: is anything left behind?
void check_end() {
    m.current = nullptr;
    if (!h.transfers.empty()) return fail(h.transfers[0].where, "a block left before its copy of a box had landed");
    for (const Mbarrier& b : h.mbarriers)
        if (b.bytes)
            return fail(nullptr, "an mbarrier is left with %lld bytes expected and not landed", (long long)b.bytes);
    for (int id = 1; id < 16; id++)
        if (h.named[id].come)
            return fail(nullptr, "barrier %d is left with %u of %u threads", id, h.named[id].come, h.named[id].count);
    for (size_t i = 0; i + 3 < m.warps.size(); i += 4)
        for (int k = 1; k < 4; k++)
            if (m.warps[i].issued != m.warps[i + k].issued)
                return fail(nullptr, "the warps of warpgroup %zu issued %zu and %zu wgmma", i / 4, m.warps[i].issued,
                            m.warps[i + k].issued);
}
