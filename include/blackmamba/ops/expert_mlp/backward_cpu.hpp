#pragma once
/// \file
/// Gradients of the experts' networks as the gradients of their parts, a bounded number of rows at a time: expert by expert, or,
/// with many rows, the tiles of all experts' products together as in the forward pass. Rows are taken in order, so sums are the
/// same on any number of threads.

#include <algorithm>

#include <blackmamba/core/simd.hpp>
#include <blackmamba/ops/activation/backward.hpp>
#include <blackmamba/ops/expert_mlp/backward_reference.hpp>
#include <blackmamba/ops/expert_mlp/cpu.hpp>
#include <blackmamba/ops/linear/backward.hpp>

namespace blackmamba {

namespace detail {

template <Scalar T>
void expert_mlp_backward_together(Cpu const& ctx, ExpertMlpBackwardArgs<T> const& a) {
  Index const E = a.fc1.extent(0), F1 = a.fc1.extent(1), F = a.fc2.extent(2), most = expert_rows_at_once(a.x.extent(0), F1);
  auto const scope = ctx.scratch().scope();
  auto const hidden_rows = ctx.scratch().template take<T>(Shape<2>{most, F1});
  auto const active_rows = ctx.scratch().template take<T>(Shape<2>{most, F});
  for (Index begin = 0; begin < a.offsets(E); begin += most) {
    Index const rows = std::min(most, a.offsets(E) - begin);
    auto const x = a.x.slice(0, begin, rows), d_y = a.d_y.slice(0, begin, rows);
    auto const d_hidden = hidden_rows.slice(0, 0, rows), active = active_rows.slice(0, 0, rows);
    auto const rows_of = [&](Index e) { return ExpertRows{a.offsets, e, begin, rows}; };
    if (!a.hidden)
      over_tiles_of<ProductTiles<T>>(ctx, E, [&](Index e) {
        auto const mine = rows_of(e);
        return LinearArgs<T>{.x = mine.of(x), .weight = a.fc1[e], .bias = of_expert(a.bias1, e), .y = mine.of(d_hidden)};
      });
    View<T const, 2> const hidden = a.hidden ? a.hidden.slice(0, begin, rows) : View<T const, 2>{d_hidden};
    auto const gate = hidden.slice(1, 0, F);
    auto const value = a.gated ? hidden.slice(1, F, F) : View<T const, 2>{};
    if (a.gated)
      gated_unit(ctx, GatedUnitArgs<T>{.kind = a.activation, .gate = gate, .value = value, .y = active});
    else
      activation(ctx, ActivationArgs<T>{.kind = a.activation, .x = gate, .y = active});

    // From here on each gradient takes the place of the value that it belongs to.
    auto const second = [&](Index e) {
      auto const mine = rows_of(e);
      return LinearBackwardArgs<T>{.x = mine.of(View<T const, 2>{active}),
                                   .weight = a.fc2[e],
                                   .d_y = mine.of(d_y),
                                   .d_x = mine.of(active),
                                   .d_weight = of_expert(a.d_fc2, e),
                                   .d_bias = of_expert(a.d_bias2, e)};
    };
    if (a.d_fc2) linear_backward_weights<T>(ctx, E, second);
    if (a.d_bias2)
      for (Index e = 0; e < E; ++e) linear_backward_bias(ctx, second(e));
    if (!a.d_x && !a.d_fc1 && !a.d_bias1) continue;
    over_tiles_of<InputGradientTiles<T>>(ctx, E, second);
    if (a.gated)
      gated_unit_backward(ctx, GatedUnitBackwardArgs<T>{.kind = a.activation,
                                                        .gate = gate,
                                                        .value = value,
                                                        .d_y = active,
                                                        .d_gate = d_hidden.slice(1, 0, F),
                                                        .d_value = d_hidden.slice(1, F, F)});
    else
      activation_backward(ctx, ActivationBackwardArgs<T>{.kind = a.activation, .x = gate, .d_y = active, .d_x = d_hidden});
    auto const first = [&](Index e) {
      auto const mine = rows_of(e);
      return LinearBackwardArgs<T>{.x = mine.of(x),
                                   .weight = a.fc1[e],
                                   .d_y = mine.of(View<T const, 2>{d_hidden}),
                                   .d_x = a.d_x ? mine.of(a.d_x.slice(0, begin, rows)) : View<T, 2>{},
                                   .d_weight = of_expert(a.d_fc1, e),
                                   .d_bias = of_expert(a.d_bias1, e)};
    };
    if (a.d_fc1) linear_backward_weights<T>(ctx, E, first);
    if (a.d_bias1)
      for (Index e = 0; e < E; ++e) linear_backward_bias(ctx, first(e));
    if (a.d_x) over_tiles_of<InputGradientTiles<T>>(ctx, E, first);
  }
}

}  // namespace detail

/// For every context made from `Cpu`, as what it is: one that replaces the linear map has it used here.
template <std::derived_from<Cpu> Ctx, Scalar T>
requires simd::supported<T>
void expert_mlp_backward_on(Ctx const& ctx, ExpertMlpBackwardArgs<T> const& a) {
  detail::check_expert_offsets("expert_mlp_backward", a.offsets, a.x.extent(0));
  Index const E = a.fc1.extent(0), F1 = a.fc1.extent(1), F = a.fc2.extent(2);
  bool const contiguous = a.x.contiguous_rows() && a.fc1.contiguous_rows() && a.fc2.contiguous_rows() && a.d_y.contiguous_rows() &&
                          (!a.d_x || a.d_x.contiguous_rows()) && (!a.d_fc1 || a.d_fc1.contiguous_rows()) &&
                          (!a.d_fc2 || a.d_fc2.contiguous_rows());
  if (detail::experts_together<Ctx>(a.x.extent(0), E, contiguous)) return detail::expert_mlp_backward_together(ctx, a);
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
      auto const d_hidden = hidden_rows.slice(0, 0, rows), active = active_rows.slice(0, 0, rows);
      View<T const, 2> const hidden = a.hidden ? a.hidden.slice(0, begin, rows) : View<T const, 2>{d_hidden};
      auto const gate = hidden.slice(1, 0, F), value = a.gated ? hidden.slice(1, F, F) : View<T const, 2>{};
      if (!a.hidden) linear(ctx, LinearArgs<T>{.x = x, .weight = a.fc1[e], .bias = detail::of_expert(a.bias1, e), .y = d_hidden});
      if (a.gated)
        gated_unit(ctx, GatedUnitArgs<T>{.kind = a.activation, .gate = gate, .value = value, .y = active});
      else
        activation(ctx, ActivationArgs<T>{.kind = a.activation, .x = gate, .y = active});

      // From here on each gradient takes the place of the value that it belongs to.
      auto const d_active = below ? active : View<T, 2>{};
      linear_backward(ctx, LinearBackwardArgs<T>{.x = active,
                                                 .weight = a.fc2[e],
                                                 .d_y = d_y,
                                                 .d_x = d_active,
                                                 .d_weight = detail::of_expert(a.d_fc2, e),
                                                 .d_bias = detail::of_expert(a.d_bias2, e)});
      if (!below) continue;
      if (a.gated)
        gated_unit_backward(ctx, GatedUnitBackwardArgs<T>{.kind = a.activation,
                                                          .gate = gate,
                                                          .value = value,
                                                          .d_y = d_active,
                                                          .d_gate = d_hidden.slice(1, 0, F),
                                                          .d_value = d_hidden.slice(1, F, F)});
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
