#pragma once
/// \file
/// Routing rules: which experts a token goes to, and with what weight. What every rule shares stands here; each rule is a file
/// beside this one.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>
#include <blackmamba/ops/route/functions.hpp>

namespace blackmamba {

/// Arguments of every routing rule. `T` is the storage scalar of the logits.
template <Scalar T>
struct RouteArgs {
  View<T const, 2> logits{};            ///< (tokens, E) the router's outputs
  View<int, 2> experts{};               ///< (tokens, k) out: the chosen experts, best first
  View<accumulator_t<T>, 2> weights{};  ///< (tokens, k) out: what each expert's output is multiplied by
  bool normalise = true;                ///< whether the k weights of a token sum to 1; for rules with more than one weight
};

namespace detail {

template <Scalar T>
void check_route(char const* op, RouteArgs<T> const& a) {
  Index const tokens = a.logits.extent(0), E = a.logits.extent(1), k = a.experts.extent(1);
  check_value(k >= 1 && k <= E, op, "experts has ", k, " slots for a token, outside 1 to the ", E, " experts of logits");
  check_shape(op, "experts", a.experts, Shape<2>{tokens, k}, "logits");
  check_shape(op, "weights", a.weights, Shape<2>{tokens, k}, "experts");
}

// The checks of data that a context of the host makes, before anything is written; on a device the kernels make them.

/// In one order on every context, so that the token named is the first one.
template <Scalar T>
void check_no_nan(char const* op, View<T const, 2> logits) {
  for (Index i = 0; i < logits.extent(0); ++i)
    for (Index j = 0; j < logits.extent(1); ++j) {
      auto const x = widen(logits(i, j));
      check_value(x == x, op, "the logit of token ", i, " for expert ", j, " is NaN");
    }
}

/// In one order on every context, so that the slot named is the first one.
inline void check_experts(char const* op, View<int const, 2> experts, Index E) {
  for (Index i = 0; i < experts.extent(0); ++i)
    for (Index s = 0; s < experts.extent(1); ++s)
      check_value(experts(i, s) >= -1 && experts(i, s) < E, op, "the expert of token ", i, ", slot ", s, " is ", experts(i, s),
                  ", outside -1 to ", E - 1);
}

/// Tokens are independent, so a rule is written for one token and serves every context; on those of the host with the same bits.
/// A rule that a device runs too is a type with `operator()(Index i)` for token i, and `refuse(i)`, which a device calls where the
/// token's data are wrong: it writes what does no harm until the fault is told.
template <class Rule>
void for_each_token(Cpu const& ctx, Index tokens, Index E, Rule const& rule) {
  parallel_ranges(ctx.threads(), tokens, 1 + (1 << 14) / (E + 1), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) rule(i);
  });
}
template <class Rule>
void for_each_token(Reference const&, Index tokens, Index, Rule const& rule) {
  for (Index i = 0; i < tokens; ++i) rule(i);
}

/// The first of the largest of a row, which has at least one element.
template <class T>
BLACKMAMBA_HOST_DEVICE Index largest_of_row(View<T, 2> const& view, Index i) {
  Index best = 0;
  auto most = widen(view(i, 0));
  for (Index j = 1; j < view.extent(1); ++j)
    if (auto const x = widen(view(i, j)); x > most) best = j, most = x;
  return best;
}

/// A token's row filled with one value.
template <class T>
BLACKMAMBA_HOST_DEVICE void fill_row(View<T, 2> const& view, Index i, T value) {
  for (Index j = 0; j < view.extent(1); ++j) view(i, j) = value;
}

/// Different experts in a token's slots, which is what a rule that fills them all leaves where it cannot choose.
BLACKMAMBA_HOST_DEVICE inline void fill_experts(View<int, 2> const& experts, Index i) {
  for (Index s = 0; s < experts.extent(1); ++s) experts(i, s) = static_cast<int>(s);
}

}  // namespace detail
}  // namespace blackmamba

#include <blackmamba/ops/route/all.hpp>
#include <blackmamba/ops/route/capacity.hpp>
#include <blackmamba/ops/route/choose.hpp>
#include <blackmamba/ops/route/draw.hpp>
#include <blackmamba/ops/route/gate.hpp>
#include <blackmamba/ops/route/memory.hpp>
#include <blackmamba/ops/route/plan_sigmoid.hpp>
#include <blackmamba/ops/route/top1_sigmoid.hpp>
#include <blackmamba/ops/route/top_k_softmax.hpp>
