#pragma once
/// \file
/// Expert networks on a GPU.

#include <blackmamba/ops/cuda_operations.cuh>
#include <blackmamba/ops/expert_mlp/combine.hpp>
#include <blackmamba/ops/expert_mlp/launch.cuh>

namespace blackmamba {

namespace detail {

/// Whether all of an operation's matrices are laid out for 16-byte accesses and the copy engine.
template <class... V>
bool experts_align(V const&... views) {
  return ((!views || tiles_align(views)) && ...);
}

template <Scalar T>
void expert_mlp_few(Cuda const& ctx, ExpertMlpArgs<T> const& a, Groups groups) {
  Index const F = a.fc2.extent(2), D = a.x.extent(1);
  auto const active = ctx.scratch().template take<T>(Shape<2>{groups.rows, F});
  StreamProduct<T> up{.x = RowsOf<T const>{a.x},
                      .groups = groups,
                      .weight = a.fc1,
                      .bias = a.bias1,
                      .K = static_cast<int>(D),
                      .N = static_cast<int>(F),
                      .kind = a.activation,
                      .y = RowsOf<T>{active},
                      .hidden = RowsOf<T>{a.hidden}};
  stream_rows(ctx, "expert_mlp", up, a.gated);
  groups.slot = nullptr;
  StreamProduct<T> const down{.x = RowsOf<T const>{active},
                              .groups = groups,
                              .weight = a.fc2,
                              .bias = a.bias2,
                              .K = static_cast<int>(F),
                              .N = static_cast<int>(D),
                              .kind = Activation::identity,
                              .y = RowsOf<T>{a.y},
                              .hidden = {},
                              .early = true};
  stream_rows(ctx, "expert_mlp", down, false);
}

/// The first product with what follows it: a, and h where it is wanted; sets `counters` to 0. False where the driver refuses to
/// describe the operands.
template <Scalar T>
bool expert_up(Cuda const& ctx, char const* op, Groups const& groups, unsigned* counters, View<T const, 2> x, View<T const, 3> fc1,
               View<T const, 2> bias, Activation kind, bool gated, View<T, 2> active, View<T, 2> hidden) {
  RowsProduct<T> p{};
  p.groups = groups, p.clear = counters, p.bias = bias, p.kind = kind, p.gated = gated;
  p.depth = static_cast<int>(x.extent(1)), p.columns = static_cast<int>(active.extent(1));
  p.y = RowsOf<T>{active}, p.hidden = RowsOf<T>{hidden};
  return gated ? tensor_rows<RowsEnd::gate, false>(ctx, op, p, x, fc1) : tensor_rows<RowsEnd::activate, false>(ctx, op, p, x, fc1);
}

/// y = x W_eᵀ + b_e, or x W_e with `Turned`; with `back` where its tokens are, times their weights.
template <bool Turned, Scalar T>
bool expert_product(Cuda const& ctx, char const* op, Groups const& groups, TileTurns turns, View<T const, 2> x,
                    View<T const, 3> weight, View<T const, 2> bias, View<T, 2> y, RowsBack const& back = {}) {
  RowsProduct<T> p{};
  p.groups = groups, p.turns = turns, p.bias = bias, p.kind = Activation::identity, p.back = back;
  p.depth = static_cast<int>(x.extent(1)), p.columns = static_cast<int>(y.extent(1));
  p.y = RowsOf<T>{y};
  return tensor_rows<RowsEnd::store, Turned>(ctx, op, p, x, weight);
}

/// Both products on the tensor cores. False where they do not run here, or the driver refuses to describe the operands.
template <Scalar T>
bool expert_mlp_many(Cuda const& ctx, ExpertMlpArgs<T> const& a, Groups const& groups, RowsBack const& back = {}) {
  constexpr char const* op = "expert_mlp";
  if (!has_wgmma(ctx.device())) return false;
  auto const active = ctx.scratch().template take<T>(Shape<2>{groups.rows, a.fc2.extent(2)});
  auto* const counters = ctx.scratch().template take<unsigned>(Shape<1>{cleared_counters}).data();
  return expert_up(ctx, op, groups, counters, a.x, a.fc1, a.bias1, a.activation, a.gated, active, a.hidden) &&
         expert_product<false>(ctx, op, {a.offsets, groups.rows}, {counters}, View<T const, 2>{active}, a.fc2, a.bias2, a.y, back);
}

}  // namespace detail

/// Fast for bf16 and half where all matrices are contiguous in their last dimension and aligned to 8 elements: up to 16 rows an
/// expert on average the weights are streamed, with more rows the products run on the tensor cores of compute capability 9.0 in
/// programs compiled for sm_90a. Elsewhere tiles by `mma.sync`, or by multiply-adds for float and double. Two runs give the same
/// bits.
///
/// Offsets are device memory, which the host does not read: where they do not rise from 0 to at most `rows`, nothing is written,
/// and the context's next `synchronize` throws `value_error`. Temporary memory is that of the hidden values, (rows, F), and (rows,
/// F1) too on the plain path without `hidden`.
template <Scalar T>
void expert_mlp_on(Cuda const& ctx, ExpertMlpArgs<T> const& a) {
  constexpr char const* op = "expert_mlp";
  Index const rows = a.x.extent(0), E = a.fc1.extent(0), F1 = a.fc1.extent(1), F = a.fc2.extent(2);
  if (rows == 0 || E == 0) return;
  detail::DeviceScope const device{ctx.device()};
  auto const scope = ctx.scratch().scope();
  detail::Groups groups{a.offsets, rows, ctx.fault(detail::expert_offset_wrong)};
  if constexpr (sizeof(T) == 2) {
    if (detail::experts_align(a.x, a.fc1, a.fc2, a.y, a.hidden)) {
      if (rows <= detail::StreamTuning::rows_an_expert * E) return detail::expert_mlp_few(ctx, a, groups);
      if (detail::expert_mlp_many(ctx, a, groups)) return;
    }
  }
  auto const hidden = a.hidden ? a.hidden : ctx.scratch().template take<T>(Shape<2>{rows, F1});
  auto const active = a.hidden ? ctx.scratch().template take<T>(Shape<2>{rows, F}) : hidden.slice(1, 0, F);
  detail::plain_rows(ctx, op, groups, a.x, a.fc1, a.bias1, hidden);
  groups.slot = nullptr;
  detail::expert_inner(ctx, op, detail::ExpertInner<T, false>{groups, a.activation, a.gated, hidden, active, {}, {}});
  detail::plain_rows(ctx, op, groups, View<T const, 2>{active}, a.fc2, a.bias2, a.y);
}

/// `expert_mlp` and `combine` where a token has one expert, e = experts(t):
///
///   y_t = weights(t) · mlp_e(x_{places(t)}), 0 where places(t) is -1
///
/// by the last product where that runs on the tensor cores for many rows, and elsewhere after each other; the same bits either way.
/// Shapes: ExpertMlpCombineArgs. `offsets`, `order` and `places` are those of one `dispatch`, whose errors are told there, and
/// shapes are those that `mix_experts` has checked. Source: as of `mix_experts`.
template <Scalar T>
void expert_mlp_combine_on(Cuda const& ctx, ExpertMlpCombineArgs<T> const& a) {
  ExpertMlpArgs<T> parts = a.mlp;
  Index const rows = parts.x.extent(0);
  detail::DeviceScope const device{ctx.device()};
  auto const scope = ctx.scratch().scope();
  if constexpr (sizeof(T) == 2) {
    if (rows > detail::StreamTuning::rows_an_expert * parts.fc1.extent(0) &&
        detail::experts_align(parts.x, parts.fc1, parts.fc2, parts.y) &&
        detail::expert_mlp_many(ctx, parts, {parts.offsets, rows}, {a.order, a.places, a.weights}))
      return;
  }
  parts.y = ctx.scratch().template take<T>(parts.x.shape());
  expert_mlp_on(ctx, parts);
  combine_on(ctx, CombineArgs<T>{.x = parts.y, .places = a.places, .weights = a.weights, .y = a.mlp.y});
}

}  // namespace blackmamba
