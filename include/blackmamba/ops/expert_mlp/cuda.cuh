#pragma once
/// \file
/// Expert networks on a GPU.

#include <blackmamba/ops/dispatch/backward_cuda.cuh>
#include <blackmamba/ops/dispatch/cuda.cuh>
#include <blackmamba/ops/expert_mlp/expert_mlp.hpp>
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

#ifndef BLACKMAMBA_TRY_BACK
#define BLACKMAMBA_TRY_BACK 1
#endif

/// Whether the last product can put its rows back itself.
template <Scalar T>
bool puts_back(PutBackArgs<T> const& back) {
  return BLACKMAMBA_TRY_BACK && back.y && back.places.extent(1) == 1 && pieces_align(back.y);
}

/// y = x W_eᵀ + b_e, or x W_e with `Turned`; put back, too, where `puts_back`.
template <bool Turned, Scalar T>
bool expert_product(Cuda const& ctx, char const* op, Groups const& groups, TileTurns turns, View<T const, 2> x,
                    View<T const, 3> weight, View<T const, 2> bias, View<T, 2> y, PutBackArgs<T> const& back = {}) {
  RowsProduct<T> p{};
  p.groups = groups, p.turns = turns, p.bias = bias, p.kind = Activation::identity;
  p.depth = static_cast<int>(x.extent(1)), p.columns = static_cast<int>(y.extent(1));
  p.y = RowsOf<T>{y};
  if constexpr (sizeof(T) == 2)
    if (puts_back(back)) p.back = {RowsOf<T>{back.y}, back.order, back.places, back.weights};
  return tensor_rows<RowsEnd::store, Turned>(ctx, op, p, x, weight);
}

/// As `expert_mlp`; whether y was put back, too.
template <Scalar T>
bool expert_mlp_rows(Cuda const& ctx, ExpertMlpArgs<T> const& a) {
  constexpr char const* op = "expert_mlp";
  Index const rows = a.x.extent(0), E = a.fc1.extent(0), F1 = a.fc1.extent(1), F = a.fc2.extent(2);
  if (rows == 0 || E == 0) return false;
  auto const scope = ctx.scratch().scope();
  Groups groups{a.offsets, rows, ctx.fault(expert_offset_wrong)};
  if constexpr (sizeof(T) == 2) {
    if (experts_align(a.x, a.fc1, a.fc2, a.y, a.hidden)) {
      if (rows <= StreamTuning::rows_an_expert * E) {
        expert_mlp_few(ctx, a, groups);
        return false;
      }
      if (has_wgmma(ctx.device())) {
        auto const active = ctx.scratch().template take<T>(Shape<2>{rows, F});
        auto* const counters = ctx.scratch().template take<unsigned>(Shape<1>{cleared_counters}).data();
        if (expert_up(ctx, op, groups, counters, a.x, a.fc1, a.bias1, a.activation, a.gated, active, a.hidden) &&
            expert_product<false>(ctx, op, {a.offsets, rows}, {counters}, View<T const, 2>{active}, a.fc2, a.bias2, a.y, a.back))
          return puts_back(a.back);
      }
    }
  }
  auto const hidden = a.hidden ? a.hidden : ctx.scratch().template take<T>(Shape<2>{rows, F1});
  auto const active = a.hidden ? ctx.scratch().template take<T>(Shape<2>{rows, F}) : hidden.slice(1, 0, F);
  plain_rows(ctx, op, groups, a.x, a.fc1, a.bias1, hidden);
  groups.slot = nullptr;
  expert_inner(ctx, op, ExpertInner<T, false>{groups, a.activation, a.gated, hidden, active, {}, {}});
  plain_rows(ctx, op, groups, View<T const, 2>{active}, a.fc2, a.bias2, a.y);
  return false;
}

}  // namespace detail

/// Fast for bf16 and half where all matrices are contiguous in their last dimension and aligned to 8 elements: up to 16 rows an
/// expert on average the weights are streamed, with more rows the products run on the tensor cores of compute capability 9.0 in
/// programs compiled for sm_90a. Elsewhere tiles by `mma.sync`, or by multiply-adds for float and double. Two runs give the same
/// bits.
///
/// Offsets are device memory, which the host does not read: where they do not rise from 0 to at most `rows`, nothing but `back.y`
/// is written, and the context's next `synchronize` throws `value_error`. Rows of one slot are put back by the last product itself
/// where it runs on the tensor cores of 9.0, which takes `back.order` and `back.places` at their word, and by a kernel after it
/// elsewhere. Temporary memory is that of the hidden values, (rows, F), and (rows, F1) too on the plain path without `hidden`.
template <Scalar T>
void expert_mlp_on(Cuda const& ctx, ExpertMlpArgs<T> const& a) {
  detail::DeviceScope const device{ctx.device()};
  if (!detail::expert_mlp_rows(ctx, a)) detail::put_back(ctx, View<T const, 2>{a.y}, a.back);
}

}  // namespace blackmamba
