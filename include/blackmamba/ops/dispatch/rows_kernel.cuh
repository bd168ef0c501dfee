#pragma once
/// \file
/// Kernels that move rows between tokens and places: a row, or an assignment, a warp, 16 bytes a lane at a time.

#include <algorithm>

#include <blackmamba/core/cuda/math.cuh>
#include <blackmamba/core/cuda/overlap.cuh>
#include <blackmamba/ops/dispatch/backward.hpp>

namespace blackmamba::detail {

/// 16 bytes of a row, in registers.
template <class T>
struct alignas(16) RowPiece {
  static constexpr int columns = 16 / static_cast<int>(sizeof(T));
  T of[columns];
};

/// Whether the pieces of a matrix can be read and written in one access each.
template <class T>
bool pieces_align(View<T, 2> const& view) {
  constexpr int V = RowPiece<std::remove_const_t<T>>::columns;
  return view.stride(1) == 1 && reinterpret_cast<std::uintptr_t>(view.data()) % 16 == 0 && view.extent(1) % V == 0 &&
         (view.extent(0) == 1 || view.stride(0) % V == 0);
}

/// How rows are dealt. Measured choices: docs/benchmarks/dispatch.md has the measurements.
struct RowPlan {
  static constexpr int warps = 2, threads = 32 * warps;
  /// Of a lane in one part of a row: where only stored elements are in registers, and where sums are too.
  static constexpr int pieces = 6, summed_pieces = 3;

  Index rows, D;
  Index parts, part;  ///< of a row; columns of a part
  bool whole;         ///< whether all pieces are of V columns, neighbours in memory, and aligned
  dim3 blocks;

  /// \param V  columns of a piece  \param P  pieces of a lane  \param split  whether parts of a row go to different warps
  RowPlan(Index row_count, Index columns, int V, int P, bool split, bool all_whole)
      : rows{row_count}, D{columns}, whole{all_whole} {
    Index const of_row = ceil_div(D, Index{V});
    parts = std::max(Index{1}, ceil_div(of_row, Index{32 * P}));
    part = ceil_div(of_row, parts) * V;
    blocks = dim3{static_cast<unsigned>(std::min(ceil_div(rows, Index{warps}), Index{1} << 30)),
                  static_cast<unsigned>(split ? std::min(parts, Index{1} << 15) : Index{1})};
  }

  /// Calls launch(whole) with `whole` as a constant.
  template <class Launch>
  void choose(Launch const& launch) const {
    if (whole)
      launch(std::true_type{});
    else
      launch(std::false_type{});
  }
  /// Calls body(row) for each row of this warp.
  template <class Body>
  __device__ __forceinline__ void each_row(Body const& body) const {
    for (Index row = Index{blockIdx.x} * warps + threadIdx.x / 32; row < rows; row += Index{gridDim.x} * warps) body(row);
  }
};

/// A lane's pieces of one part of a row, the same of every matrix: P of them, 32 pieces apart.
template <class T, int P, bool Whole>
struct PackedRow {
  static constexpr int V = RowPiece<T>::columns;
  using Stored = RowPiece<T>[P];

  Index first;  ///< column of this lane
  int length;   ///< columns from there to the end of the part

  /// Calls body(pieces) for each part of a row that is this warp's.
  template <class Body>
  static __device__ __forceinline__ void each_part(RowPlan const& plan, Body const& body) {
    for (Index i = blockIdx.y; i < plan.parts; i += gridDim.y) {
      Index const end = (i + 1) * plan.part < plan.D ? (i + 1) * plan.part : plan.D;
      Index const first = i * plan.part + static_cast<int>(threadIdx.x % 32) * V;
      body(PackedRow{first, static_cast<int>(end - first)});
    }
  }
  __device__ __forceinline__ void load(View<T const, 2> const& x, Index row, Stored& out) const {
    Index const step = Whole ? Index{1} : x.stride(1);
    T const* const from = x.data() + row * x.stride(0) + first * step;
#pragma unroll
    for (int u = 0; u < P; ++u) {
      int const left = length - u * 32 * V;
      out[u] = {};
      if (left <= 0) continue;
      if constexpr (Whole) {
        out[u] = *reinterpret_cast<RowPiece<T> const*>(from + u * 32 * V);
      } else {
#pragma unroll
        for (int i = 0; i < V; ++i)
          if (i < left) out[u].of[i] = from[(u * 32 * V + i) * step];
      }
    }
  }
  /// `piece(u)` is what goes there.
  template <class Piece>
  __device__ __forceinline__ void store(View<T, 2> const& y, Index row, Piece const& piece) const {
    Index const step = Whole ? Index{1} : y.stride(1);
    T* const to = y.data() + row * y.stride(0) + first * step;
#pragma unroll
    for (int u = 0; u < P; ++u) {
      int const left = length - u * 32 * V;
      if (left <= 0) continue;
      RowPiece<T> const x = piece(u);
      if constexpr (Whole) {
        *reinterpret_cast<RowPiece<T>*>(to + u * 32 * V) = x;
      } else {
#pragma unroll
        for (int i = 0; i < V; ++i)
          if (i < left) to[(u * 32 * V + i) * step] = x.of[i];
      }
    }
  }
};

/// The place or the assignment there, or -1 where it is none; a fault where it cannot be one.
__device__ inline Index checked_place(Index place, Index count, Index position, FaultSlot* fault) {
  if (place >= -1 && place < count) return place;
  if (threadIdx.x % 32 == 0) report_fault(fault, position, place);
  return -1;
}

/// y_p = x_{order[p] div slots}, where only the size of a scalar matters.
template <class Bits, bool Whole>
__global__ void __launch_bounds__(RowPlan::threads)
    gather_tokens_kernel(__grid_constant__ View<Bits const, 2> const x, __grid_constant__ View<Index const, 1> const order,
                         Index slots, __grid_constant__ View<Bits, 2> const y, __grid_constant__ RowPlan const plan,
                         FaultSlot* fault) {
  using Pieces = PackedRow<Bits, RowPlan::pieces, Whole>;
  let_next_start();
  await_kernels_before();
  plan.each_row([&](Index p) {
    Index const assignment = checked_place(order[p], plan.rows, p, fault);
    if (assignment < 0) return;
    Index const token = slots == 1 ? assignment : assignment / slots;
    Pieces::each_part(plan, [&](Pieces const& mine) {
      typename Pieces::Stored row;
      mine.load(x, token, row);
      mine.store(y, p, [&](int u) { return row[u]; });
    });
  });
}

/// Of both sums over slots; `weights` are those of one of them alone.
template <class T>
using SlotSums = CombineArgs<T>;

/// y_t = Σ_s weights(t, s) x_{places(t, s)} for K slots, 1 or 2, whose rows are all read before the first is used.
template <class T, bool Weighted, int K>
__global__ void __launch_bounds__(RowPlan::threads)
    combine_few_kernel(__grid_constant__ SlotSums<T> const a, __grid_constant__ RowPlan const plan, FaultSlot* fault) {
  using A = accumulator_t<T>;
  using Pieces = PackedRow<T, RowPlan::pieces, true>;
  let_next_start();
  await_kernels_before();
  Index const places = a.places.size();
  plan.each_row([&](Index t) {
    Index place[K];
    A weight[K];
#pragma unroll
    for (int s = 0; s < K; ++s) place[s] = a.places(t, s);
#pragma unroll
    for (int s = 0; s < K; ++s) {
      place[s] = checked_place(place[s], places, t * K + s, fault);
      weight[s] = A(1);
      if (Weighted && place[s] >= 0) weight[s] = a.weights(t, s);
    }
    Pieces::each_part(plan, [&](Pieces const& mine) {
      typename Pieces::Stored row[K];
#pragma unroll
      for (int s = 0; s < K; ++s)
        if (place[s] >= 0) mine.load(a.x, place[s], row[s]);
      mine.store(a.y, t, [&](int u) {
        RowPiece<T> y;
#pragma unroll
        for (int i = 0; i < Pieces::V; ++i) {
          A sum{0};
#pragma unroll
          for (int s = 0; s < K; ++s)
            if (place[s] >= 0) sum = fma(weight[s], device_widen(row[s][u].of[i]), sum);
          y.of[i] = device_round<T>(sum);
        }
        return y;
      });
    });
  });
}

/// The same for any number of slots, one after the other.
template <class T, bool Weighted, bool Whole>
__global__ void __launch_bounds__(RowPlan::threads)
    combine_kernel(__grid_constant__ SlotSums<T> const a, __grid_constant__ RowPlan const plan, FaultSlot* fault) {
  using A = accumulator_t<T>;
  constexpr int P = RowPlan::summed_pieces;
  using Pieces = PackedRow<T, P, Whole>;
  let_next_start();
  await_kernels_before();
  Index const k = a.places.extent(1), places = a.places.size();
  plan.each_row([&](Index t) {
    Pieces::each_part(plan, [&](Pieces const& mine) {
      A sum[P][Pieces::V]{};
      for (Index s = 0; s < k; ++s) {
        Index const place = checked_place(a.places(t, s), places, t * k + s, fault);
        if (place < 0) continue;
        A const weight = Weighted ? a.weights(t, s) : A(1);
        typename Pieces::Stored row;
        mine.load(a.x, place, row);
#pragma unroll
        for (int u = 0; u < P; ++u)
#pragma unroll
          for (int i = 0; i < Pieces::V; ++i) sum[u][i] = fma(weight, device_widen(row[u].of[i]), sum[u][i]);
      }
      mine.store(a.y, t, [&](int u) {
        RowPiece<T> y;
#pragma unroll
        for (int i = 0; i < Pieces::V; ++i) y.of[i] = device_round<T>(sum[u][i]);
        return y;
      });
    });
  });
}

/// Launches the sums over slots.
template <bool Weighted, class T>
void sum_slots(Cuda const& ctx, SlotSums<T> const& a, FaultSlot* fault) {
  constexpr int V = RowPiece<T>::columns;
  Index const rows = a.y.extent(0), D = a.y.extent(1), k = a.places.extent(1);
  if (rows == 0 || D == 0) return;
  DeviceScope const device{ctx.device()};
  bool const whole = pieces_align(a.x) && pieces_align(a.y);
  constexpr char const* name = "combine_kernel";
  RowPlan const few{rows, D, V, RowPlan::pieces, true, whole}, plan{rows, D, V, RowPlan::summed_pieces, true, whole};
  if (few.whole && k == 1)
    launch_overlapping(ctx, name, &combine_few_kernel<T, Weighted, 1>, few.blocks, few.threads, 0, a, few, fault);
  else if (few.whole && k == 2)
    launch_overlapping(ctx, name, &combine_few_kernel<T, Weighted, 2>, few.blocks, few.threads, 0, a, few, fault);
  else
    plan.choose([&](auto all) {
      launch_overlapping(ctx, name, &combine_kernel<T, Weighted, all>, plan.blocks, plan.threads, 0, a, plan, fault);
    });
}

/// For assignment (t, s) with p = places(t, s): d_x_p = weights(t, s) d_y_t, d_weights(t, s) = x_p · d_y_t. An element of `x` is
/// read by the lane that writes that of `d_x`, and before: they may be one.
template <class T, bool Whole>
__global__ void __launch_bounds__(RowPlan::threads)
    combine_backward_kernel(__grid_constant__ CombineBackwardArgs<T> const a, __grid_constant__ RowPlan const plan,
                            FaultSlot* fault) {
  using A = accumulator_t<T>;
  constexpr int P = Whole ? RowPlan::pieces : RowPlan::summed_pieces;
  using Pieces = PackedRow<T, P, Whole>;
  Index const k = a.places.extent(1);
  plan.each_row([&](Index i) {
    Index const t = k == 1 ? i : i / k, s = k == 1 ? 0 : i % k;
    Index const place = checked_place(a.places(t, s), plan.rows, i, fault);
    A dot{0};
    if (place >= 0) {
      A const weight = a.d_x ? a.weights(t, s) : A(0);
      Pieces::each_part(plan, [&](Pieces const& mine) {
        typename Pieces::Stored d_y, x;
        mine.load(a.d_y, t, d_y);
        if (a.d_weights) {
          mine.load(a.x, place, x);
#pragma unroll
          for (int u = 0; u < P; ++u)
#pragma unroll
            for (int v = 0; v < Pieces::V; ++v) dot = fma(device_widen(x[u].of[v]), device_widen(d_y[u].of[v]), dot);
        }
        if (!a.d_x) return;
        mine.store(a.d_x, place, [&](int u) {
          RowPiece<T> d_x;
#pragma unroll
          for (int v = 0; v < Pieces::V; ++v) d_x.of[v] = device_round<T>(weight * device_widen(d_y[u].of[v]));
          return d_x;
        });
      });
    }
    if (!a.d_weights) return;
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) dot += __shfl_xor_sync(~0u, dot, mask);
    if (threadIdx.x % 32 == 0) a.d_weights(t, s) = dot;
  });
}

}  // namespace blackmamba::detail
