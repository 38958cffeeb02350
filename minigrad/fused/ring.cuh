// What kernels with warpgroups share: which one a thread is in, and rings of places that are filled ahead of their use.

__device__ __forceinline__ int group_of() { return __shfl_sync(~0u, threadIdx.x / 128, 0); }     // one for the warp

// Places for pieces, in which one of every N is at a time. Round t of a barrier that stands for each N-th piece is over
// when its phase of parity t / N % 2 is.
template<int N> struct Ring {
    Barrier full[N], empty[N];
    static __device__ __forceinline__ int place(int t) { return (unsigned)t % N; }
    static __device__ __forceinline__ int parity(int t) { return (unsigned)t / N % 2; }
    // All pieces are to come, by so many arrivals each, and so many warps leave them.
    __device__ __forceinline__ void begin(int fillers, int warps) {
        for (int i = 0; i < N; i++) {
            barrier_init(&full[i], fillers);
            barrier_init(&empty[i], warps);
        }
    }
    __device__ __forceinline__ void wait_full(int t) { barrier_wait(&full[place(t)], parity(t)); }
    __device__ __forceinline__ void wait_empty(int t) { barrier_wait(&empty[place(t)], parity(t) ^ 1); }
    __device__ __forceinline__ Barrier* expect(int t, int bytes) {             // when there is room for piece t
        wait_empty(t);
        barrier_expect(&full[place(t)], bytes);
        return &full[place(t)];
    }
    __device__ __forceinline__ void leave(int t) {          // a thread of each warp says that its warp has done with it
        if (threadIdx.x % 32 == 0) barrier_arrive(&empty[place(t)]);
    }
};
