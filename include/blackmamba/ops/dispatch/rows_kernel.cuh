#pragma once
/// \file
/// Kernels that move rows between tokens and places: a row, or an assignment, a warp, 16 bytes a lane at a time.

#include <algorithm>

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/core/cuda/elementwise.cuh>
#include <blackmamba/ops/dispatch/backward.hpp>

namespace blackmamba::detail {

/// How rows are dealt. Measured choices: docs/benchmarks/dispatch.md has the measurements.
struct RowPlan {
  static constexpr int warps = 4, threads = 32 * warps;
  static constexpr int pieces = 3;  ///< of a lane in one part of a row

  Index rows, D;
  Index parts, part;  ///< of a row; columns of a part
  bool whole;         ///< whether all pieces are of V columns, neighbours in memory, and aligned
  dim3 blocks;

  /// \param V  columns of a piece  \param split  whether parts of a row go to different warps
  RowPlan(Index row_count, Index columns, int V, bool split, bool all_whole)
      : rows{row_count}, D{columns}, whole{all_whole && columns % V == 0} {
    Index const of_row = ceil_div(D, Index{V});
    parts = std::max(Index{1}, ceil_div(of_row, Index{32 * pieces}));
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
  /// Calls body(first column, its end) for each part of a row that is this warp's.
  template <class Body>
  __device__ __forceinline__ void each_part(Body const& body) const {
    for (Index i = blockIdx.y; i < parts; i += gridDim.y) body(i * part, (i + 1) * part < D ? (i + 1) * part : D);
  }
};

/// Calls body(u, column, columns) for each piece of this lane between two columns; `columns` ≤ 0 where there is none.
template <int V, bool Whole, class Body>
__device__ __forceinline__ void each_piece(Index begin, Index end, Body const& body) {
#pragma unroll
  for (int u = 0; u < RowPlan::pieces; ++u) {
    Index const column = begin + (u * 32 + static_cast<int>(threadIdx.x % 32)) * V;
    body(u, column, Whole ? (column < end ? V : 0) : column + V <= end ? V : static_cast<int>(end - column));
  }
}

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
  constexpr int V = lanes_of<Bits>;
  plan.each_row([&](Index p) {
    Index const assignment = checked_place(order[p], plan.rows, p, fault);
    if (assignment < 0) return;
    Index const token = slots == 1 ? assignment : assignment / slots;
    plan.each_part([&](Index begin, Index end) {
      Lanes<Bits, V> row[RowPlan::pieces];
      each_piece<V, Whole>(begin, end, [&](int u, Index d, int n) {
        if (n > 0) row[u] = load_lanes<V>(&x(token, d), x.stride(1), Whole, Whole ? V : n);
      });
      each_piece<V, Whole>(begin, end, [&](int u, Index d, int n) {
        if (n > 0) store_lanes<V>(&y(p, d), y.stride(1), Whole, Whole ? V : n, row[u]);
      });
    });
  });
}

/// y_t = Σ_s weights(t, s) x_{places(t, s)}, or with Weighted = false the sum of those rows.
template <class T, bool Weighted, bool Whole>
__global__ void __launch_bounds__(RowPlan::threads)
    combine_kernel(__grid_constant__ CombineArgs<T> const a, __grid_constant__ RowPlan const plan, FaultSlot* fault) {
  using A = accumulator_t<T>;
  constexpr int V = lanes_of<T>;
  Index const k = a.places.extent(1), places = a.places.size();
  plan.each_row([&](Index t) {
    plan.each_part([&](Index begin, Index end) {
      A sum[RowPlan::pieces][V]{};
      for (Index s = 0; s < k; ++s) {
        Index const place = checked_place(a.places(t, s), places, t * k + s, fault);
        if (place < 0) continue;
        A const weight = Weighted ? a.weights(t, s) : A(1);
        Lanes<T, V> row[RowPlan::pieces];
        each_piece<V, Whole>(begin, end, [&](int u, Index d, int n) {
          row[u] = {};
          if (n > 0) row[u] = load_lanes<V>(&a.x(place, d), a.x.stride(1), Whole, Whole ? V : n);
        });
#pragma unroll
        for (int u = 0; u < RowPlan::pieces; ++u)
#pragma unroll
          for (int i = 0; i < V; ++i) {
            A const x = device_widen(row[u].of[i]);
            sum[u][i] = Weighted ? fma(weight, x, sum[u][i]) : sum[u][i] + x;
          }
      }
      each_piece<V, Whole>(begin, end, [&](int u, Index d, int n) {
        if (n <= 0) return;
        Lanes<T, V> y;
#pragma unroll
        for (int i = 0; i < V; ++i) y.of[i] = device_round<T>(sum[u][i]);
        store_lanes<V>(&a.y(t, d), a.y.stride(1), Whole, Whole ? V : n, y);
      });
    });
  });
}

/// For assignment (t, s) with p = places(t, s): d_x_p = weights(t, s) d_y_t, d_weights(t, s) = x_p · d_y_t. An element of `x` is
/// read by the lane that writes that of `d_x`, and before: they may be one.
template <class T, bool Whole>
__global__ void __launch_bounds__(RowPlan::threads)
    combine_backward_kernel(__grid_constant__ CombineBackwardArgs<T> const a, __grid_constant__ RowPlan const plan,
                            FaultSlot* fault) {
  using A = accumulator_t<T>;
  constexpr int V = lanes_of<T>;
  Index const k = a.places.extent(1);
  plan.each_row([&](Index i) {
    Index const t = k == 1 ? i : i / k, s = k == 1 ? 0 : i % k;
    Index const place = checked_place(a.places(t, s), plan.rows, i, fault);
    A dot{0};
    if (place >= 0) {
      A const weight = a.d_x ? a.weights(t, s) : A(0);
      plan.each_part([&](Index begin, Index end) {
        Lanes<T, V> d_y[RowPlan::pieces], x[RowPlan::pieces];
        each_piece<V, Whole>(begin, end, [&](int u, Index d, int n) {
          d_y[u] = {}, x[u] = {};
          if (n <= 0) return;
          d_y[u] = load_lanes<V>(&a.d_y(t, d), a.d_y.stride(1), Whole, Whole ? V : n);
          if (a.d_weights) x[u] = load_lanes<V>(&a.x(place, d), a.x.stride(1), Whole, Whole ? V : n);
        });
        each_piece<V, Whole>(begin, end, [&](int u, Index d, int n) {
          Lanes<T, V> d_x;
#pragma unroll
          for (int v = 0; v < V; ++v) {
            A const g = device_widen(d_y[u].of[v]);
            dot = fma(device_widen(x[u].of[v]), g, dot);
            d_x.of[v] = device_round<T>(weight * g);
          }
          if (a.d_x && n > 0) store_lanes<V>(&a.d_x(place, d), a.d_x.stride(1), Whole, Whole ? V : n, d_x);
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
