#pragma once
/// \file
/// The k experts of best score, each expert's score moved by a bias of its own, within the best groups of experts.

#include <blackmamba/core/math.hpp>
#include <blackmamba/ops/route/route.hpp>

namespace blackmamba {

/// Arguments of `route_choose`. `A` is the scalar of scores.
template <Scalar A>
struct RouteChooseArgs {
  View<A const, 2> scores{};  ///< (tokens, E)
  View<A const, 1> bias{};    ///< optional (E), added to every token's scores
  Index groups = 1;           ///< groups of E / groups neighbouring experts
  Index groups_kept = 1;      ///< groups that a token chooses from
  View<int, 2> experts{};     ///< (tokens, k) out, best first
};

namespace detail {

/// The first of [begin, end) in the order (value down, index up) that comes after `previous`, or -1; with previous = -1 the first.
template <class A, class Value, class Allowed>
BLACKMAMBA_HOST_DEVICE Index next_best(Index begin, Index end, Index previous, Value const& value, Allowed const& allowed) {
  Index next = -1;
  A const last = previous >= 0 ? value(previous) : A(0);
  A most = last;
  for (Index j = begin; j < end; ++j) {
    A const v = value(j);
    bool const follows = previous < 0 || v < last || (v == last && j > previous);
    if (follows && (next < 0 || v > most) && allowed(j)) next = j, most = v;
  }
  return next;
}

/// Writes to best(0) … best(k - 1) the first k of those in [begin, end) that are allowed, in the order (value down, index up).
template <class A, class Value, class Allowed, class Best>
BLACKMAMBA_HOST_DEVICE void k_best(Index begin, Index end, Index k, Value const& value, Allowed const& allowed, Best&& best) {
  Index found = 0;
  A least{0};
  for (Index j = begin; j < end; ++j) {
    if (!allowed(j)) continue;
    A const v = value(j);
    if (found == k && !(v > least)) continue;
    Index at = found < k ? found++ : k - 1;
    for (; at > 0 && v > value(best(at - 1)); --at) best(at) = best(at - 1);
    best(at) = static_cast<int>(j);
    least = value(best(found - 1));
  }
}

template <Scalar A>
struct ChooseRule {
  RouteChooseArgs<A> a;
  View<A, 2> of_group;  // (tokens, groups) scratch: what each group is worth, where some are left out

  BLACKMAMBA_HOST_DEVICE void operator()(Index i) const {
    Index const E = a.scores.extent(1), k = a.experts.extent(1), size = E / a.groups, share = k / a.groups_kept;
    Index const counted = share < 1 ? 1 : share < size ? share : size;
    auto const value = [&](Index j) -> A { return a.bias ? a.scores(i, j) + a.bias(j) : a.scores(i, j); };
    auto const any = [](Index) { return true; };
    if (a.groups_kept < a.groups)
      for (Index g = 0; g < a.groups; ++g) {
        Index at = -1;
        A sum{0};
        for (Index n = 0; n < counted; ++n) sum += value(at = next_best<A>(g * size, (g + 1) * size, at, value, any));
        of_group(i, g) = sum;
      }
    auto const kept = [&](Index j) {
      if (a.groups_kept == a.groups) return true;
      Index const g = j / size;
      Index better = 0;
      for (Index h = 0; h < a.groups; ++h) better += of_group(i, h) > of_group(i, g) || (of_group(i, h) == of_group(i, g) && h < g);
      return better < a.groups_kept;
    };
#if defined(__CUDA_ARCH__)
    // k passes need no memory that a later step waits for.
    Index at = -1;
    for (Index s = 0; s < k; ++s) a.experts(i, s) = static_cast<int>(at = next_best<A>(0, E, at, value, kept));
#else
    k_best<A>(0, E, k, value, kept, a.experts[i]);
#endif
  }
  BLACKMAMBA_HOST_DEVICE void refuse(Index i) const { fill_experts(a.experts, i); }
};

template <class Ctx, Scalar A>
ChooseRule<A> choose_rule(Ctx const& ctx, RouteChooseArgs<A> const& a) {
  bool const some = a.groups_kept < a.groups;
  return {a, some ? ctx.scratch().template take<A>(Shape<2>{a.scores.extent(0), a.groups}) : View<A, 2>{}};
}

}  // namespace detail

template <std::derived_from<Reference> Ctx, Scalar A>
void route_choose_on(Ctx const& ctx, RouteChooseArgs<A> const& a) {
  constexpr char const* op = "route_choose";
  Index const tokens = a.scores.extent(0), E = a.scores.extent(1), k = a.experts.extent(1);
  // Any order of values that holds a NaN is no order.
  detail::check_no_nan(op, a.scores);
  for (Index j = 0; a.bias && j < E; ++j) check_value(isfinite(a.bias(j)), op, "the bias of expert ", j, " is not finite");
  auto const scope = ctx.scratch().scope();
  detail::for_each_token(ctx, tokens, E * (k + 1), detail::choose_rule(ctx, a));
}

namespace detail {

struct route_choose_fn {
  template <class Ctx, Scalar A>
  requires std::same_as<A, accumulator_t<A>>
  void operator()(Ctx const& ctx, RouteChooseArgs<A> const& a) const {
    constexpr char const* op = "route_choose";
    Index const tokens = a.scores.extent(0), E = a.scores.extent(1), k = a.experts.extent(1);
    check_value(k >= 1 && k <= E, op, "experts has ", k, " slots for a token, outside 1 to the ", E, " experts of scores");
    check_value(a.groups >= 1 && E % a.groups == 0 && a.groups_kept >= 1 && a.groups_kept <= a.groups, op, a.groups_kept, " of ",
                a.groups, " groups of ", E, " experts; groups must divide the experts, and 1 to all of them be kept");
    check_value(k <= a.groups_kept * (E / a.groups), op, k, " experts for a token, and the ", a.groups_kept, " groups kept have ",
                a.groups_kept * (E / a.groups));
    check_shape(op, "experts", a.experts, Shape<2>{tokens, k}, "scores");
    if (a.bias) check_shape(op, "bias", a.bias, Shape<1>{E}, "scores");
    ProfileRange const range{op};
    route_choose_on(ctx, a);
  }
};

}  // namespace detail

/// Each token to the k experts of largest score + bias, best first, the lower index first on ties, out of its groups_kept best
/// groups. A group is worth the sum of its best max(1, k / groups_kept) experts, bias included:
///
///   e_1 … e_k = argtop-k_{j in kept groups} (scores_j + bias_j)
///
/// Shapes: scores (tokens, E); bias (E); experts (tokens, k), 1 ≤ k ≤ groups_kept · E / groups; any strides. Compared in `A`.
/// Scratch for tokens · groups numbers where groups are left out. Nothing may alias. Does not synchronise. Throws `shape_error` on
/// extents that disagree, and `value_error`, with the numbers, on k or groups outside their range and on a score that is NaN or a
/// bias that is not finite; nothing is written then. Source: DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2; groups
/// arXiv:2405.04434, section 2.2.2.
inline constexpr detail::route_choose_fn route_choose{};

}  // namespace blackmamba
