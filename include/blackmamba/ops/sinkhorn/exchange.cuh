#pragma once
/// \file
/// Sums over all tokens, inside a kernel that goes on with them: columns of a matrix whose rows are dealt to the threads of one
/// block, of a cluster of blocks that read each other's shared memory, or of a cooperative grid.
///
/// A token's E columns are dealt to `group` neighbouring lanes, 8 a lane. Everything is added in an order that depends on shapes
/// and the number of blocks alone, and every block adds for itself: all of them decide alike.

#include <cooperative_groups.h>

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/core/cuda/elementwise.cuh>
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
  bool whole = false, plan_whole = false;  ///< whether 8 columns are neighbours, and aligned
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
      auto const lanes = load_lanes<sinkhorn_columns>(&view(i, j), view.stride(1), whole, count);
#pragma unroll
      for (int c = 0; c < sinkhorn_columns; ++c) x[c] = c < count ? static_cast<A>(device_widen(lanes.of[c])) : A(0);
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

/// The block's shared memory: parts of warps, totals, and what other blocks of a cluster bring.
inline int sinkhorn_shared_bytes(int group, int threads, bool clustered, int scalar) {
  int const width = sinkhorn_columns * group + 1;
  return (threads / 32 + 1 + (clustered ? 2 * sinkhorn_most_blocks : 0)) * width * scalar;
}

extern __shared__ double sinkhorn_shared[];

template <class A>
class ColumnSums {
 public:
  __device__ explicit ColumnSums(SinkhornJob<A> const& job)
      : job_{job},
        width_{sinkhorn_columns * job.group + 1},
        parts_{reinterpret_cast<A*>(sinkhorn_shared)},
        total_{parts_ + blockDim.x / 32 * width_},
        inbox_{total_ + width_} {}

  /// Each of v becomes its sum, or with Largest its largest, over the threads that have the same column; `worst` its largest.
  template <bool Largest = false>
  __device__ __forceinline__ void operator()(A (&v)[sinkhorn_columns], A& worst) {
    int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    int const warps = static_cast<int>(blockDim.x) / 32, blocks = static_cast<int>(gridDim.x), last = width_ - 1;
    leave<Largest>(v, worst, lane, parts_ + warp * width_);
    __syncthreads();
    for (int c = warp; c < width_; c += warps) {
      bool const largest = Largest || c == last;
      A const nothing = largest ? -HUGE_VAL : A(0);
      A const x = warp_meet(lane < warps ? parts_[lane * width_ + c] : nothing, largest);
      if (blocks == 1) {
        if (lane == 0) total_[c] = x;
      } else if (job_.clustered) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
        if (lane < blocks)
          *cooperative_groups::this_cluster().map_shared_rank(inbox_ + (turn_ * sinkhorn_most_blocks + blockIdx.x) * width_ + c,
                                                              static_cast<unsigned>(lane)) = x;
#endif
      } else if (lane == 0) {
        job_.partial[(turn_ * width_ + c) * blocks + static_cast<int>(blockIdx.x)] = x;
      }
    }
    if (blocks > 1) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
      if (job_.clustered)
        cooperative_groups::this_cluster().sync();
      else
#endif
        cooperative_groups::this_grid().sync();
      for (int c = warp; c < width_; c += warps) {
        bool const largest = Largest || c == last;
        A x = largest ? -HUGE_VAL : A(0);
        for (int b = lane; b < blocks; b += 32) {
          A const y = job_.clustered ? inbox_[(turn_ * sinkhorn_most_blocks + b) * width_ + c]
                                     : __ldcg(job_.partial + (turn_ * width_ + c) * blocks + b);
          x = largest ? meet<A, true>(x, y) : x + y;
        }
        x = warp_meet(x, largest);
        if (lane == 0) total_[c] = x;
      }
      turn_ ^= 1;
    }
    __syncthreads();
    int const first = lane % job_.group * sinkhorn_columns;
#pragma unroll
    for (int c = 0; c < sinkhorn_columns; ++c) v[c] = total_[first + c];
    worst = total_[last];
    if (blocks == 1) __syncthreads();  // elsewhere what waits for the other blocks comes before the next totals
  }

 private:
  /// The warp's part. While lanes are left that have the same columns, half of the columns goes to one half of them.
  template <bool Largest>
  __device__ __forceinline__ void leave(A (&v)[sinkhorn_columns], A worst, int lane, A* to) const {
    int const group = job_.group;
    int first = lane % group * sinkhorn_columns, count = sinkhorn_columns;
#pragma unroll
    for (int step = 0; step < 3; ++step) {
      int const mask = 16 >> step, halved = sinkhorn_columns >> (step + 1);
      if (mask < group) continue;
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
      if (mask >= group) v[0] = meet<A, Largest>(v[0], __shfl_xor_sync(~0u, v[0], mask));
    worst = warp_meet(worst, true);
    if (lane == 0) to[width_ - 1] = worst;
    // Of lanes with the same sums, the first: bits 0 and 1 are what is left of a group's beyond the halvings.
    if (lane & 3 & ~(group - 1)) return;
#pragma unroll
    for (int c = 0; c < sinkhorn_columns; ++c)
      if (c < count) to[first + c] = v[c];
  }

  SinkhornJob<A> const& job_;
  int width_;
  A *parts_, *total_, *inbox_;
  int turn_ = 0;
};

/// The tokens of a thread, and its columns of them.
template <class A>
struct SinkhornShare {
  int part, count;  ///< which columns of a token, and how many there are
  Index slot, slots, rounds;

  __device__ explicit SinkhornShare(SinkhornJob<A> const& job) {
    int const group = job.group;
    Index const thread = Index{blockIdx.x} * blockDim.x + threadIdx.x;
    part = static_cast<int>(threadIdx.x) % group;
    Index const left = job.E - Index{part} * sinkhorn_columns;
    count = left < 0 ? 0 : left < sinkhorn_columns ? static_cast<int>(left) : sinkhorn_columns;
    slot = thread / static_cast<unsigned>(group);
    slots = Index{gridDim.x} * (blockDim.x / static_cast<unsigned>(group));
    rounds = (job.tokens + slots - 1) / slots;
  }
  __device__ Index column() const { return Index{part} * sinkhorn_columns; }
  __device__ int present(SinkhornJob<A> const& job, Index i) const { return i < job.tokens ? count : 0; }
};

template <class A>
inline constexpr int sinkhorn_most_threads = std::is_same_v<A, double> ? 512 : 1024;

}  // namespace blackmamba::detail
