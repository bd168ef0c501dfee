#pragma once
/// \file
/// What a mixture of experts does with its tokens once experts and weights are chosen, as one operation.

#include <blackmamba/ops/dispatch/dispatch.hpp>
#include <blackmamba/ops/expert_mlp/expert_mlp.hpp>

namespace blackmamba {

/// Arguments of `mix_experts`. F is the hidden width; F1 = 2 F with `gated`, else F.
template <Scalar T>
struct MixExpertsArgs {
  View<T const, 2> x{};                       ///< (tokens, D)
  View<int const, 2> experts{};               ///< (tokens, k) the expert of each assignment; -1: none
  View<accumulator_t<T> const, 2> weights{};  ///< (tokens, k)
  View<T const, 3> fc1{};                     ///< (E, F1, D) with `gated`: the rows of the gate, then those of the value
  View<T const, 2> bias1{};                   ///< optional (E, F1)
  View<T const, 3> fc2{};                     ///< (E, D, F)
  View<T const, 2> bias2{};                   ///< optional (E, D)
  Activation activation = Activation::identity;
  bool gated = false;
  View<T, 2> y{};  ///< (tokens, D) out
};

namespace detail {

/// The tokens of a mixture by expert, each assignment a row.
template <Scalar T>
struct SortedTokens {
  View<Index, 1> offsets, order;  ///< as `dispatch` writes them, and so is
  View<Index, 2> places;
  View<T, 2> rows;  ///< (tokens · k, D) as `gather_tokens` writes it
};

/// The first two of its operations, in scratch memory whose scope the caller has.
template <class Ctx, Scalar T>
SortedTokens<T> sort_tokens(Ctx const& ctx, MixExpertsArgs<T> const& a) {
  Arena& scratch = ctx.scratch();
  Index const E = a.fc2.extent(0), k = a.experts.extent(1), rows = a.experts.size();
  SortedTokens<T> const out{.offsets = scratch.template take<Index>(Shape<1>{E + 1}),
                            .order = scratch.template take<Index>(Shape<1>{rows}),
                            .places = scratch.template take<Index>(a.experts.shape()),
                            .rows = scratch.template take<T>(Shape<2>{rows, a.x.extent(1)})};
  dispatch(ctx, DispatchArgs{.experts = a.experts, .offsets = out.offsets, .order = out.order, .places = out.places});
  if (k > 0) gather_tokens(ctx, GatherArgs<T>{.x = a.x, .order = out.order, .slots = k, .y = out.rows});
  return out;
}

/// The third, with its outputs in `y`.
template <Scalar T>
ExpertMlpArgs<T> mlp_of(MixExpertsArgs<T> const& a, SortedTokens<T> const& sorted, View<T, 2> y) {
  return {.x = sorted.rows,
          .offsets = sorted.offsets,
          .fc1 = a.fc1,
          .bias1 = a.bias1,
          .fc2 = a.fc2,
          .bias2 = a.bias2,
          .activation = a.activation,
          .gated = a.gated,
          .y = y};
}

/// The four operations that it is, one after the other.
template <class Ctx, Scalar T>
void mix_experts_by_parts(Ctx const& ctx, MixExpertsArgs<T> const& a) {
  auto const scope = ctx.scratch().scope();
  auto const sorted = sort_tokens(ctx, a);
  auto const outputs = ctx.scratch().template take<T>(sorted.rows.shape());
  expert_mlp(ctx, mlp_of(a, sorted, outputs));
  combine(ctx, CombineArgs<T>{.x = outputs, .places = sorted.places, .weights = a.weights, .y = a.y});
}

struct mix_experts_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, MixExpertsArgs<T> const& a) const {
    constexpr char const* op = "mix_experts";
    Index const tokens = a.x.extent(0), D = a.x.extent(1), k = a.experts.extent(1);
    Index const E = a.fc2.extent(0), F = a.fc2.extent(2), F1 = a.gated ? 2 * F : F;
    check_kind(op, a.activation);
    check_shape(op, "experts", a.experts, Shape<2>{tokens, k}, "x");
    check_shape(op, "weights", a.weights, a.experts.shape(), "experts");
    check_shape(op, "fc2", a.fc2, Shape<3>{E, D, F}, "x");
    check_shape(op, "fc1", a.fc1, Shape<3>{E, F1, D}, a.gated ? "fc2 with a gate" : "fc2 without a gate");
    if (a.bias1) check_shape(op, "bias1", a.bias1, Shape<2>{E, F1}, "fc1");
    if (a.bias2) check_shape(op, "bias2", a.bias2, Shape<2>{E, D}, "fc2");
    check_shape(op, "y", a.y, a.x.shape(), "x");
    ProfileRange const range{op};
    mix_experts_on(ctx, a);
  }
};

}  // namespace detail

/// `dispatch`, `gather_tokens`, `expert_mlp` and `combine` after each other:
///
///   y_t = Σ_s weights(t, s) · mlp_{experts(t, s)}(x_t)
///
/// Shapes: x, y (tokens, D); experts, weights (tokens, k); fc1 (E, F1, D); bias1 (E, F1); fc2 (E, D, F); bias2 (E, D). Any strides.
/// A slot that holds -1 adds nothing, and its weight is not read. Rounded to `T` where those operations round: hidden values, what
/// an expert puts out, y. No aliasing. Does not synchronise. Throws `shape_error` naming the argument that disagrees, and
/// `value_error` on an unknown activation and on an expert outside -1 to E - 1.
/// Source: Anthony et al. 2024, arXiv:2402.01771, section 3.
inline constexpr detail::mix_experts_fn mix_experts{};

}  // namespace blackmamba

#include <blackmamba/ops/mix_experts/cpu.hpp>
#include <blackmamba/ops/mix_experts/reference.hpp>
