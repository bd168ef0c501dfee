#pragma once
/// \file
/// Sums over all tokens, inside a kernel that goes on with them: columns of a matrix whose rows are dealt to the threads of one
/// block, of a cluster of blocks that read each other's shared memory, or of a cooperative grid.
///
/// A token's E columns are dealt to `group` neighbouring lanes, 8 a lane. Everything is added in an order that depends on shapes
/// and the number of blocks alone, and every block adds for itself: all of them decide alike.

#include <cooperative_groups.h>

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/core/cuda/fours.cuh>
#include <blackmamba/core/cuda/tma.cuh>
#include <blackmamba/ops/sinkhorn/sinkhorn.hpp>

namespace blackmamba::detail {

inline constexpr int sinkhorn_columns = 8;          ///< of a lane
inline constexpr int sinkhorn_most_blocks = 16;     ///< of a cluster
inline constexpr int sinkhorn_clustered_group = 8;  ///< lanes of a token in a cluster, at most: its shared memory is small

/// What both forms are given.
template <class A>
struct SinkhornJob {
  View<float const, 2> floats{};  ///< the logits: one of these, or `doubles`
  View<half const, 2> halves{};
  View<bf16 const, 2> bfloats{};
  View<double const, 2> doubles{};
  View<A, 2> plan{};
  View<A, 1> potentials{};
  View<SinkhornReport, 1> report{};
  Index tokens = 0, E = 0;
  double tolerance = 0;
  Index max_iterations = 0;
  A sharpness = 0;
  bool ones = false;
  bool whole = false, plan_whole = false;  ///< whether columns are neighbours, and 4 of them aligned
  int group = 1;                           ///< lanes of a token: a power of two
  bool clustered = false;                  ///< whether the blocks are one cluster
  A* partial = nullptr;                    ///< (2, columns + 1, blocks) for a cooperative grid
  FaultSlot *not_finite = nullptr, *range = nullptr, *lost = nullptr;

  __device__ A logit(Index i, Index j) const {
    if constexpr (std::is_same_v<A, double>) {
      return doubles(i, j);
    } else {
      if (floats) return floats(i, j);
      return halves ? device_widen(halves(i, j)) : device_widen(bfloats(i, j));
    }
  }
  /// The first `count` of 8 neighbouring logits.
  __device__ void load(Index i, Index j, int count, A (&x)[sinkhorn_columns]) const {
    auto const from = [&](auto const& view) {
      auto const* const p = &view(i, j);
      if (whole && count == sinkhorn_columns) {
#pragma unroll
        for (int four = 0; four < 2; ++four) {
          auto const stored = load_four(p + 4 * four);
#pragma unroll
          for (int k = 0; k < 4; ++k) x[4 * four + k] = device_widen(stored.of[k]);
        }
        return;
      }
#pragma unroll
      for (int c = 0; c < sinkhorn_columns; ++c) x[c] = c < count ? device_widen(p[c * view.stride(1)]) : A(0);
    };
    if constexpr (std::is_same_v<A, double>) {
      from(doubles);
    } else {
      if (floats)
        from(floats);
      else if (halves)
        from(halves);
      else
        from(bfloats);
    }
  }
};

template <class A, bool Largest>
__device__ __forceinline__ A meet(A x, A y) {
  if constexpr (Largest)
    return x > y || x != x ? x : y;  // a NaN stays
  else
    return x + y;
}
template <class A>
__device__ __forceinline__ A warp_meet(A x, bool largest) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    A const other = __shfl_xor_sync(~0u, x, mask);
    x = largest ? meet<A, true>(x, other) : x + other;
  }
  return x;
}
/// Over the lanes of a token: all of them get it.
template <bool Largest, class A>
__device__ __forceinline__ A group_meet(A x, int group) {
  for (int mask = group / 2; mask > 0; mask /= 2) x = meet<A, Largest>(x, __shfl_xor_sync(~0u, x, mask));
  return x;
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
/// The address that a place in this block's shared memory has in another block of the cluster.
__device__ inline std::uint32_t address_in_block(std::uint32_t address, int rank) {
  std::uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
/// Stores in another block's shared memory, beside everything else; a barrier there counts the bytes that came.
template <class A>
__device__ void send(std::uint32_t to, A x, std::uint32_t barrier) {
  if constexpr (sizeof(A) == 4)
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to), "r"(__float_as_uint(x)),
                 "r"(barrier)
                 : "memory");
  else
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];" ::"r"(to),
                 "l"(__double_as_longlong(x)), "r"(barrier)
                 : "memory");
}
#endif

/// The block's shared memory: two barriers, two numbers a column, parts of warps, the worst of all, and what other blocks of a
/// cluster bring.
inline int sinkhorn_shared_bytes(int group, int threads, bool clustered, int scalar) {
  int const columns = sinkhorn_columns * group, width = columns + 1;
  return 16 + (2 * columns + (threads / 32 + (clustered ? 2 * sinkhorn_most_blocks : 0)) * width + 1) * scalar;
}

extern __shared__ double2 sinkhorn_shared[];

/// Sums over all tokens. What becomes of a column's sum is computed once a block, and kept as two numbers `a` and `b` of the
/// column, which threads then read: there are more threads than columns.
template <class A>
class ColumnSums {
 public:
  __device__ explicit ColumnSums(SinkhornJob<A> const& job)
      : job_{job},
        group_{job.group},
        width_{sinkhorn_columns * group_ + 1},
        part_{static_cast<int>(threadIdx.x) & (group_ - 1)},
        a_{reinterpret_cast<A*>(sinkhorn_shared + 1)},
        b_{a_ + width_ - 1},
        parts_{b_ + width_ - 1},
        worst_{parts_ + static_cast<int>(blockDim.x / 32) * width_},
        inbox_{worst_ + 1} {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    if (!job.clustered) return;
    if (threadIdx.x == 0) {
      barrier_init(arrived(0), 1), barrier_init(arrived(1), 1);
      barriers_ready();
    }
    cooperative_groups::this_cluster().sync();
#endif
  }

  /// What `a` of this lane's columns is before the first sum.
  __device__ void begin(A const (&a)[sinkhorn_columns]) const {
    if (static_cast<int>(threadIdx.x) >= group_) return;
#pragma unroll
    for (int c = 0; c < sinkhorn_columns; ++c) a_[part_ * sinkhorn_columns + c] = a[c];
  }

  /// The sums of v, or with Largest its largest, over the threads that have the same column, go to column(j, sum, a, b) for every
  /// column j < E, and what that leaves in `a` and `b` comes back; 0 where there is no column. With Worst the largest `worst` of
  /// all threads comes back too. `v` is used up.
  template <bool Largest, bool Worst, class Column>
  __device__ __forceinline__ void operator()(A (&v)[sinkhorn_columns], A& worst, A (&a)[sinkhorn_columns], A (&b)[sinkhorn_columns],
                                             Column const& column) {
    int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    int const warps = static_cast<int>(blockDim.x) / 32, blocks = static_cast<int>(gridDim.x), last = width_ - 1;
    int const used = Worst ? width_ : last;
    auto const finish = [&](int c, A x) {
      if (c == last) {
        *worst_ = x;
      } else if (c < job_.E) {
        column(c, x, a_[c], b_[c]);
      } else {
        a_[c] = b_[c] = 0;
      }
    };
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    if (job_.clustered && threadIdx.x == 0) barrier_expect(arrived(turn_), static_cast<unsigned>(used * blocks) * sizeof(A));
#endif
    leave<Largest, Worst>(v, worst, lane, parts_ + warp * width_);
    __syncthreads();
    for (int c = warp; c < used; c += warps) {
      bool const largest = Largest || (Worst && c == last);
      A const nothing = largest ? A(-HUGE_VAL) : A(0);
      A const x = warp_meet(lane < warps ? parts_[lane * width_ + c] : nothing, largest);
      if (blocks == 1) {
        if (lane == 0) finish(c, x);
      } else if (job_.clustered) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
        if (lane < blocks)
          send(address_in_block(shared_address(inbox_ + (turn_ * sinkhorn_most_blocks + static_cast<int>(blockIdx.x)) * width_ + c),
                                lane),
               x, address_in_block(arrived(turn_), lane));
#endif
      } else if (lane == 0) {
        job_.partial[(turn_ * width_ + c) * blocks + static_cast<int>(blockIdx.x)] = x;
      }
    }
    if (blocks > 1) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
      // A block sends its next sums when it has these, so none is more than one turn ahead of another: two inboxes are enough.
      if (job_.clustered)
        barrier_wait(arrived(turn_), phase_);
      else
#endif
        cooperative_groups::this_grid().sync();
      for (int c = warp; c < used; c += warps) {
        bool const largest = Largest || (Worst && c == last);
        A x = largest ? A(-HUGE_VAL) : A(0);
        for (int of = lane; of < blocks; of += 32) {
          A const y = job_.clustered ? inbox_[(turn_ * sinkhorn_most_blocks + of) * width_ + c]
                                     : __ldcg(job_.partial + (turn_ * width_ + c) * blocks + of);
          x = largest ? meet<A, true>(x, y) : x + y;
        }
        x = warp_meet(x, largest);
        if (lane == 0) finish(c, x);
      }
      phase_ ^= static_cast<unsigned>(turn_), turn_ ^= 1;
    }
    __syncthreads();
#pragma unroll
    for (int four = 0; four < 2; ++four) {
      auto const of_a = load_four(a_ + part_ * sinkhorn_columns + 4 * four),
                 of_b = load_four(b_ + part_ * sinkhorn_columns + 4 * four);
#pragma unroll
      for (int k = 0; k < 4; ++k) a[4 * four + k] = of_a.of[k], b[4 * four + k] = of_b.of[k];
    }
    if (Worst) worst = *worst_;
    if (blocks == 1) __syncthreads();  // elsewhere what waits for the other blocks comes before the next is written
  }

 private:
  /// The warp's part. While lanes are left that have the same columns, half of the columns goes to one half of them.
  template <bool Largest, bool Worst>
  __device__ __forceinline__ void leave(A (&v)[sinkhorn_columns], A worst, int lane, A* to) const {
    int first = part_ * sinkhorn_columns, count = sinkhorn_columns;
#pragma unroll
    for (int step = 0; step < 3; ++step) {
      int const mask = 16 >> step, halved = sinkhorn_columns >> (step + 1);
      if (mask < group_) continue;
      bool const upper = lane & mask;
#pragma unroll
      for (int c = 0; c < halved; ++c) {
        A const other = __shfl_xor_sync(~0u, upper ? v[c] : v[c + halved], mask);
        v[c] = meet<A, Largest>(upper ? v[c + halved] : v[c], other);
      }
      count = halved;
      if (upper) first += halved;
    }
#pragma unroll
    for (int mask = 2; mask > 0; mask /= 2)
      if (mask >= group_) v[0] = meet<A, Largest>(v[0], __shfl_xor_sync(~0u, v[0], mask));
    if constexpr (Worst) {
      worst = warp_meet(worst, true);
      if (lane == 0) to[width_ - 1] = worst;
    }
    // Of lanes with the same sums, the first: bits 0 and 1 are what is left of a group's beyond the halvings.
    if (lane & 3 & ~(group_ - 1)) return;
#pragma unroll
    for (int c = 0; c < sinkhorn_columns; ++c)
      if (c < count) to[first + c] = v[c];
  }

  /// The barrier that counts the bytes of this turn.
  __device__ static std::uint32_t arrived(int turn) {
    return shared_address(reinterpret_cast<unsigned long long*>(sinkhorn_shared) + turn);
  }

  SinkhornJob<A> const& job_;
  int group_, width_, part_;
  A *a_, *b_, *parts_, *worst_, *inbox_;
  int turn_ = 0;        ///< which inbox
  unsigned phase_ = 0;  ///< parity of its barrier
};

/// The tokens of a thread, and its columns of them.
template <class A>
struct SinkhornShare {
  int part, count;    ///< which columns of a token, and how many there are
  Index slot, slots;  ///< the first token, and how far it is to the next

  __device__ explicit SinkhornShare(SinkhornJob<A> const& job) {
    int const group = job.group;
    Index const thread = Index{blockIdx.x} * blockDim.x + threadIdx.x;
    part = static_cast<int>(threadIdx.x) & (group - 1);
    Index const left = job.E - Index{part} * sinkhorn_columns;
    count = left < 0 ? 0 : left < sinkhorn_columns ? static_cast<int>(left) : sinkhorn_columns;
    int const shift = __ffs(group) - 1;
    slot = thread >> shift;
    slots = Index{gridDim.x} * (blockDim.x >> shift);
  }
  __device__ Index column() const { return Index{part} * sinkhorn_columns; }
  __device__ int present(SinkhornJob<A> const& job, Index i) const { return i < job.tokens ? count : 0; }
};

/// Tokens that a thread keeps where there are many in a cluster: few warps then exchange sums.
template <class A>
inline constexpr int sinkhorn_kept = std::is_same_v<A, double> ? 2 : 4;

/// Threads of a block that keeps `Kept` tokens a thread, at most.
template <class A, int Kept>
inline constexpr int sinkhorn_most_threads = Kept > 1                    ? 256
                                             : std::is_same_v<A, double> ? 512
                                                                         : 1024;

}  // namespace blackmamba::detail
