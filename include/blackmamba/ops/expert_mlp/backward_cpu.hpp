#pragma once
/// \file
/// Gradients of the experts' networks as the gradients of their parts, on the rows of one expert at a time, a bounded number of
/// them. The parts bring the products and the threads; rows are taken in order, so sums are the same on any number of threads.

#include <algorithm>

#include <blackmamba/core/simd.hpp>
#include <blackmamba/ops/activation/backward.hpp>
#include <blackmamba/ops/expert_mlp/backward_reference.hpp>
#include <blackmamba/ops/linear/backward.hpp>

namespace blackmamba {

namespace detail {

/// The part of an optional stack of parameters that belongs to expert e; absent where the stack is.
template <class T, int Rank>
View<T, Rank - 1> of_expert(View<T, Rank> const& stack, Index e) {
  return stack ? stack[e] : View<T, Rank - 1>{};
}

}  // namespace detail

/// For every context made from `Cpu`, as what it is: one that replaces the linear map has it used here.
template <std::derived_from<Cpu> Ctx, Scalar T>
requires simd::supported<T>
void expert_mlp_backward_on(Ctx const& ctx, ExpertMlpBackwardArgs<T> const& a) {
  detail::check_expert_offsets("expert_mlp_backward", a.offsets, a.x.extent(0));
  Index const E = a.fc1.extent(0), F1 = a.fc1.extent(1), F = a.fc2.extent(2);
  // Enough rows to pay for reading an expert's weights and writing their gradients again, few enough to keep the hidden rows near.
  constexpr Index tile = 256;
  // However the rows are spread, so that what a pass takes can be told beforehand.
  Index const most = std::min(a.x.extent(0), tile);
  auto const scope = ctx.scratch().scope();
  auto const hidden_rows = ctx.scratch().template take<T>(Shape<2>{most, F1});
  auto const active_rows = ctx.scratch().template take<T>(Shape<2>{most, F});
  bool const below = a.d_x || a.d_fc1 || a.d_bias1;

  for (Index e = 0; e < E; ++e)
    for (Index begin = a.offsets(e); begin < a.offsets(e + 1); begin += tile) {
      Index const rows = std::min(tile, a.offsets(e + 1) - begin);
      auto const x = a.x.slice(0, begin, rows), d_y = a.d_y.slice(0, begin, rows);
      auto const hidden = hidden_rows.slice(0, 0, rows), active = active_rows.slice(0, 0, rows);
      auto const gate = hidden.slice(1, 0, F), value = a.gated ? hidden.slice(1, F, F) : View<T, 2>{};
      linear(ctx, LinearArgs<T>{.x = x, .weight = a.fc1[e], .bias = detail::of_expert(a.bias1, e), .y = hidden});
      if (a.gated)
        gated_unit(ctx, GatedUnitArgs<T>{.kind = a.activation, .gate = gate, .value = value, .y = active});
      else
        activation(ctx, ActivationArgs<T>{.kind = a.activation, .x = gate, .y = active});

      // From here on each gradient takes the place of the value that it belongs to.
      auto const d_active = below ? active : View<T, 2>{}, d_hidden = hidden;
      linear_backward(ctx, LinearBackwardArgs<T>{.x = active,
                                                 .weight = a.fc2[e],
                                                 .d_y = d_y,
                                                 .d_x = d_active,
                                                 .d_weight = detail::of_expert(a.d_fc2, e),
                                                 .d_bias = detail::of_expert(a.d_bias2, e)});
      if (!below) continue;
      if (a.gated)
        gated_unit_backward(
            ctx, GatedUnitBackwardArgs<T>{
                     .kind = a.activation, .gate = gate, .value = value, .d_y = d_active, .d_gate = gate, .d_value = value});
      else
        activation_backward(ctx, ActivationBackwardArgs<T>{.kind = a.activation, .x = gate, .d_y = d_active, .d_x = d_hidden});
      linear_backward(ctx, LinearBackwardArgs<T>{.x = x,
                                                 .weight = a.fc1[e],
                                                 .d_y = d_hidden,
                                                 .d_x = a.d_x ? a.d_x.slice(0, begin, rows) : View<T, 2>{},
                                                 .d_weight = detail::of_expert(a.d_fc1, e),
                                                 .d_bias = detail::of_expert(a.d_bias1, e)});
    }
}

}  // namespace blackmamba
