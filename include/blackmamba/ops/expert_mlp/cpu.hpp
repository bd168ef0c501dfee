#pragma once
/// \file
/// Expert networks as linear maps on the rows of each expert, a bounded number of rows at a time. With few rows an expert the maps
/// follow one another and stream their weights; with many, the tiles of all experts' products are one heap of work for the threads,
/// which small maps one by one would leave idle.

#include <algorithm>

#include <blackmamba/core/simd.hpp>
#include <blackmamba/ops/expert_mlp/reference.hpp>
#include <blackmamba/ops/linear/linear.hpp>

namespace blackmamba {

namespace detail {

/// Rows that are taken at a time: their hidden values stay near the cores, and few experts' weights are met twice.
inline Index expert_rows_at_once(Index rows, Index hidden_width) {
  constexpr Index elements = Index{1} << 20, fewest = 256;
  return std::min(rows, std::max(fewest, elements / std::max(hidden_width, Index{1})));
}

/// The part of an optional stack of parameters that belongs to expert e; absent where the stack is.
template <class T, int Rank>
View<T, Rank - 1> of_expert(View<T, Rank> const& stack, Index e) {
  return stack ? stack[e] : View<T, Rank - 1>{};
}

/// Whether all experts' products go together: there are enough rows, laid out for tiles, and nobody replaces the linear map.
template <class Ctx>
bool experts_together(Index rows, Index experts, bool contiguous) {
  return std::same_as<Ctx, Cpu> && contiguous && rows > 16 * experts;
}

/// The rows of expert e among [begin, begin + count), counted from `begin`.
struct ExpertRows {
  Index begin, count;
  ExpertRows(View<Index const, 1> offsets, Index e, Index from, Index rows)
      : begin{std::clamp(offsets(e) - from, Index{0}, rows)}, count{std::clamp(offsets(e + 1) - from, Index{0}, rows) - begin} {}
  template <class S>
  View<S, 2> of(View<S, 2> const& view) const {
    return view.slice(0, begin, count);
  }
};

template <Scalar T>
void expert_mlp_together(Cpu const& ctx, ExpertMlpArgs<T> const& a) {
  Index const E = a.fc1.extent(0), F1 = a.fc1.extent(1), F = a.fc2.extent(2), most = expert_rows_at_once(a.x.extent(0), F1);
  auto const scope = ctx.scratch().scope();
  auto const hidden_rows = a.hidden ? View<T, 2>{} : ctx.scratch().template take<T>(Shape<2>{most, F1});
  auto const active_rows = a.hidden ? ctx.scratch().template take<T>(Shape<2>{most, F}) : hidden_rows.slice(1, 0, F);
  for (Index begin = 0; begin < a.offsets(E); begin += most) {
    Index const rows = std::min(most, a.offsets(E) - begin);
    auto const x = a.x.slice(0, begin, rows);
    auto const y = a.y.slice(0, begin, rows), active = active_rows.slice(0, 0, rows);
    auto const hidden = a.hidden ? a.hidden.slice(0, begin, rows) : hidden_rows.slice(0, 0, rows);
    over_tiles_of<ProductTiles<T>>(ctx, E, [&](Index e) {
      ExpertRows const mine{a.offsets, e, begin, rows};
      return LinearArgs<T>{.x = mine.of(x), .weight = a.fc1[e], .bias = of_expert(a.bias1, e), .y = mine.of(hidden)};
    });
    if (a.gated)
      gated_unit(
          ctx, GatedUnitArgs<T>{.kind = a.activation, .gate = hidden.slice(1, 0, F), .value = hidden.slice(1, F, F), .y = active});
    else
      activation(ctx, ActivationArgs<T>{.kind = a.activation, .x = hidden, .y = active});
    over_tiles_of<ProductTiles<T>>(ctx, E, [&](Index e) {
      ExpertRows const mine{a.offsets, e, begin, rows};
      return LinearArgs<T>{
          .x = mine.of(View<T const, 2>{active}), .weight = a.fc2[e], .bias = of_expert(a.bias2, e), .y = mine.of(y)};
    });
  }
}

}  // namespace detail

/// For every context made from `Cpu`, as what it is: one that replaces the linear map has it used here.
template <std::derived_from<Cpu> Ctx, Scalar T>
requires simd::supported<T>
void expert_mlp_on(Ctx const& ctx, ExpertMlpArgs<T> const& a) {
  detail::check_expert_offsets("expert_mlp", a.offsets, a.x.extent(0));
  Index const E = a.fc1.extent(0), F1 = a.fc1.extent(1), F = a.fc2.extent(2);
  bool const contiguous = a.x.contiguous_rows() && a.fc1.contiguous_rows() && a.fc2.contiguous_rows() && a.y.contiguous_rows() &&
                          (!a.hidden || a.hidden.contiguous_rows());
  if (detail::experts_together<Ctx>(a.x.extent(0), E, contiguous)) return detail::expert_mlp_together(ctx, a);
  constexpr Index tile = 256;
  // However the rows are spread, so that what a pass takes can be told beforehand.
  Index const most = std::min(a.x.extent(0), tile);
  auto const scope = ctx.scratch().scope();
  auto const hidden_rows = ctx.scratch().template take<T>(Shape<2>{most, F1});
  auto const active_rows = a.hidden ? ctx.scratch().template take<T>(Shape<2>{most, F}) : hidden_rows.slice(1, 0, F);

  for (Index e = 0; e < E; ++e)
    for (Index begin = a.offsets(e); begin < a.offsets(e + 1); begin += tile) {
      Index const rows = std::min(tile, a.offsets(e + 1) - begin);
      auto const hidden = a.hidden ? a.hidden.slice(0, begin, rows) : hidden_rows.slice(0, 0, rows);
      auto const gate = hidden.slice(1, 0, F), active = active_rows.slice(0, 0, rows);
      linear(ctx,
             LinearArgs<T>{.x = a.x.slice(0, begin, rows), .weight = a.fc1[e], .bias = detail::of_expert(a.bias1, e), .y = hidden});
      if (a.gated)
        gated_unit(ctx, GatedUnitArgs<T>{.kind = a.activation, .gate = gate, .value = hidden.slice(1, F, F), .y = active});
      else
        activation(ctx, ActivationArgs<T>{.kind = a.activation, .x = gate, .y = active});
      linear(ctx,
             LinearArgs<T>{.x = active, .weight = a.fc2[e], .bias = detail::of_expert(a.bias2, e), .y = a.y.slice(0, begin, rows)});
    }
}

}  // namespace blackmamba
