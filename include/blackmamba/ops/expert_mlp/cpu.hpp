#pragma once
/// \file
/// Expert networks as linear maps on the rows of one expert at a time, a bounded number of them. The linear map streams the
/// weight for few rows, is a blocked product for many, and brings the threads.

#include <algorithm>

#include <blackmamba/core/simd.hpp>
#include <blackmamba/ops/expert_mlp/reference.hpp>
#include <blackmamba/ops/linear/linear.hpp>

namespace blackmamba {

/// For every context made from `Cpu`, as what it is: one that replaces the linear map has it used here.
template <std::derived_from<Cpu> Ctx, Scalar T>
requires simd::supported<T>
void expert_mlp_on(Ctx const& ctx, ExpertMlpArgs<T> const& a) {
  detail::check_expert_offsets("expert_mlp", a.offsets, a.x.extent(0));
  Index const E = a.fc1.extent(0), F1 = a.fc1.extent(1), F = a.fc2.extent(2);
  // Enough rows to pay for reading an expert's weights again, few enough to keep the hidden rows near the cores.
  constexpr Index tile = 256;
  // However the rows are spread, so that what a pass takes can be told beforehand.
  Index const most = std::min(a.x.extent(0), tile);
  auto const scope = ctx.scratch().scope();
  auto const hidden_rows = ctx.scratch().template take<T>(Shape<2>{most, F1});

  for (Index e = 0; e < E; ++e)
    for (Index begin = a.offsets(e); begin < a.offsets(e + 1); begin += tile) {
      Index const rows = std::min(tile, a.offsets(e + 1) - begin);
      auto const hidden = hidden_rows.slice(0, 0, rows), active = hidden.slice(1, 0, F);
      linear(
          ctx,
          LinearArgs<T>{
              .x = a.x.slice(0, begin, rows), .weight = a.fc1[e], .bias = a.bias1 ? a.bias1[e] : View<T const, 1>{}, .y = hidden});
      if (a.gated)
        gated_unit(ctx, GatedUnitArgs<T>{.kind = a.activation, .gate = active, .value = hidden.slice(1, F, F), .y = active});
      else
        activation(ctx, ActivationArgs<T>{.kind = a.activation, .x = active, .y = active});
      linear(
          ctx,
          LinearArgs<T>{
              .x = active, .weight = a.fc2[e], .bias = a.bias2 ? a.bias2[e] : View<T const, 1>{}, .y = a.y.slice(0, begin, rows)});
    }
}

}  // namespace blackmamba
