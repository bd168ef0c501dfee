#pragma once
/// \file
/// Rules that look down the columns: which tokens an expert takes, and the score at which that many come to it.

#include <algorithm>

#include <blackmamba/ops/route/choose.hpp>

namespace blackmamba {

/// Arguments of `route_expert_choice`. `A` is the scalar of scores.
template <Scalar A>
struct ExpertChoiceArgs {
  View<A const, 2> scores{};  ///< (tokens, E)
  Index capacity = 1;         ///< tokens that an expert takes
  View<int, 2> experts{};     ///< (tokens, E) out: e in slot e where expert e takes the token, else -1
  View<A, 1> thresholds{};    ///< optional (E) out: the least score that each expert took
};

/// Arguments of `route_threshold`.
template <Scalar A>
struct RouteThresholdArgs {
  View<A const, 2> scores{};      ///< (tokens, E)
  View<A const, 1> thresholds{};  ///< (E)
  View<int, 2> experts{};         ///< (tokens, E) out: e in slot e where the score is at least the threshold, else -1
};

/// Arguments of `balance_thresholds`.
template <Scalar A>
struct BalanceThresholdsArgs {
  View<A const, 2> scores{};  ///< (tokens, E)
  Index k = 1;                ///< experts of a token
  View<A, 1> thresholds{};    ///< (E) in, out
};

/// How many tokens an expert gets when `tokens` go to k of E experts evenly: tokens · k / E to the nearest, of 1 to all of them.
constexpr Index even_share(Index tokens, Index k, Index E) {
  if (tokens == 0 || E == 0) return 0;
  return std::clamp((2 * tokens * k + E) / (2 * E), Index{1}, tokens);
}

template <std::derived_from<Reference> Ctx, Scalar A>
void route_expert_choice_on(Ctx const& ctx, ExpertChoiceArgs<A> const& a) {
  detail::check_no_nan("route_expert_choice", a.scores);
  Index const tokens = a.scores.extent(0), E = a.scores.extent(1);
  auto const scope = ctx.scratch().scope();
  auto const ranked = ctx.scratch().template take<int>(Shape<2>{E, tokens});
  parallel_for(ctx.threads(), E, [&](Index e) {
    int* const order = &ranked(e, 0);
    for (Index i = 0; i < tokens; ++i) order[i] = static_cast<int>(i), a.experts(i, e) = -1;
    auto const before = [&](int i, int j) {
      return a.scores(i, e) > a.scores(j, e) || (a.scores(i, e) == a.scores(j, e) && i < j);
    };
    std::nth_element(order, order + a.capacity - 1, order + tokens, before);
    for (Index n = 0; n < a.capacity; ++n) a.experts(order[n], e) = static_cast<int>(e);
    if (a.thresholds) a.thresholds(e) = a.scores(order[a.capacity - 1], e);
  });
}

namespace detail {

template <Scalar A>
struct ThresholdRule {
  RouteThresholdArgs<A> a;

  BLACKMAMBA_HOST_DEVICE void operator()(Index i) const {
    for (Index e = 0; e < a.scores.extent(1); ++e) a.experts(i, e) = a.scores(i, e) < a.thresholds(e) ? -1 : static_cast<int>(e);
  }
  BLACKMAMBA_HOST_DEVICE void refuse(Index i) const { fill_row(a.experts, i, -1); }
};

/// What a token asks of an expert: to be better than the best one that it does without.
template <Scalar A>
struct MarginRule {
  BalanceThresholdsArgs<A> a;
  View<A, 1> margin;  // (tokens) out
  A* room;            // for tokens · E numbers

  BLACKMAMBA_HOST_DEVICE void operator()(Index i) const {
    Index const E = a.scores.extent(1);
    A* const best = &room[i * E];  // the largest so far
    Index found = 0;
    for (Index j = 0; j < E; ++j) {
      A const v = a.scores(i, j) - a.thresholds(j);
      if (found > a.k && !(v > best[a.k])) continue;
      Index at = found <= a.k ? found++ : a.k;
      for (; at > 0 && v > best[at - 1]; --at) best[at] = best[at - 1];
      best[at] = v;
    }
    margin(i) = best[a.k];
  }
  BLACKMAMBA_HOST_DEVICE void refuse(Index i) const { margin(i) = A(0); }
};

}  // namespace detail

template <std::derived_from<Reference> Ctx, Scalar A>
void route_threshold_on(Ctx const& ctx, RouteThresholdArgs<A> const& a) {
  detail::check_no_nan("route_threshold", a.scores);
  detail::for_each_token(ctx, a.scores.extent(0), a.scores.extent(1), detail::ThresholdRule<A>{a});
}

template <std::derived_from<Reference> Ctx, Scalar A>
void balance_thresholds_on(Ctx const& ctx, BalanceThresholdsArgs<A> const& a) {
  detail::check_no_nan("balance_thresholds", a.scores);
  Index const tokens = a.scores.extent(0), E = a.scores.extent(1), share = even_share(tokens, a.k, E);
  auto const scope = ctx.scratch().scope();
  auto const margin = ctx.scratch().template take<A>(Shape<1>{tokens});
  auto const column = ctx.scratch().template take<A>(Shape<2>{E, tokens});  // room for the margins before it is needed
  detail::for_each_token(ctx, tokens, E * (a.k + 1), detail::MarginRule<A>{a, margin, column.data()});
  // And what an expert asks of a token: to be better than the best one that it does without.
  parallel_for(ctx.threads(), E, [&](Index e) {
    A* const x = &column(e, 0);
    for (Index i = 0; i < tokens; ++i) x[i] = a.scores(i, e) - margin(i);
    Index const rank = std::min(share, tokens - 1);
    std::nth_element(x, x + rank, x + tokens, [](A const& p, A const& q) { return p > q; });
    a.thresholds(e) = x[rank];
  });
}

namespace detail {

struct route_expert_choice_fn {
  template <class Ctx, Scalar A>
  requires std::same_as<A, accumulator_t<A>>
  void operator()(Ctx const& ctx, ExpertChoiceArgs<A> const& a) const {
    constexpr char const* op = "route_expert_choice";
    Index const tokens = a.scores.extent(0), E = a.scores.extent(1);
    check_shape(op, "experts", a.experts, a.scores.shape(), "scores");
    if (a.thresholds) check_shape(op, "thresholds", a.thresholds, Shape<1>{E}, "scores");
    if (tokens == 0) return;
    check_value(a.capacity >= 1 && a.capacity <= tokens, op, "capacity is ", a.capacity, ", outside 1 to the ", tokens, " tokens");
    ProfileRange const range{op};
    route_expert_choice_on(ctx, a);
  }
};

struct route_threshold_fn {
  template <class Ctx, Scalar A>
  requires std::same_as<A, accumulator_t<A>>
  void operator()(Ctx const& ctx, RouteThresholdArgs<A> const& a) const {
    constexpr char const* op = "route_threshold";
    check_shape(op, "thresholds", a.thresholds, Shape<1>{a.scores.extent(1)}, "scores");
    check_shape(op, "experts", a.experts, a.scores.shape(), "scores");
    ProfileRange const range{op};
    route_threshold_on(ctx, a);
  }
};

struct balance_thresholds_fn {
  template <class Ctx, Scalar A>
  requires std::same_as<A, accumulator_t<A>>
  void operator()(Ctx const& ctx, BalanceThresholdsArgs<A> const& a) const {
    constexpr char const* op = "balance_thresholds";
    Index const E = a.scores.extent(1);
    check_value(a.k >= 1 && a.k <= E, op, "k is ", a.k, ", outside 1 to the ", E, " experts of scores");
    check_shape(op, "thresholds", a.thresholds, Shape<1>{E}, "scores");
    if (a.scores.extent(0) == 0 || a.k == E) return;
    ProfileRange const range{op};
    balance_thresholds_on(ctx, a);
  }
};

}  // namespace detail

/// Each expert takes the tokens of best score, the earlier token first on ties, however many others take them:
///
///   expert e takes argtop-capacity_i scores_ie
///
/// Shapes: scores, experts (tokens, E); thresholds (E); any strides. Compared in `A`. Scratch for tokens · E numbers. Nothing may
/// alias. No tokens: nothing is done. Does not synchronise. Throws `shape_error` on extents that disagree, and `value_error` on a
/// capacity outside 1 to tokens and on a NaN; nothing is written then. Source: Zhou et al. 2022, arXiv:2202.09368, section 3.2.
inline constexpr detail::route_expert_choice_fn route_expert_choice{};

/// Each expert takes the tokens whose score reaches its threshold: expert e takes { i : scores_ie ≥ thresholds_e }, so a token's
/// experts do not depend on other tokens.
///
/// Shapes: scores, experts (tokens, E); thresholds (E); any strides. Compared in `A`. Nothing may alias. Does not synchronise.
/// Throws `shape_error` on extents that disagree, and `value_error` on a NaN; nothing is written then.
inline constexpr detail::route_threshold_fn route_threshold{};

/// One round of the optimal allocation of tokens · k / E tokens to every expert, k experts to every token. Its dual asks for a
/// margin α_i of each token and a threshold β_e of each expert, and each is a quantile given the others:
///
///   α_i = the (k+1)-th largest of scores_ij - β_j over j ;   β_e ← the (share+1)-th largest of scores_ie - α_i over i
///
/// with share = `even_share`. Tokens then choose the k largest scores - β. Thresholds of one batch are a good start for the next.
///
/// Shapes: scores (tokens, E); thresholds (E); any strides. In `A`. Scratch for tokens · (E + 1) numbers. Nothing may alias. No
/// tokens, or k = E where there is no choice: thresholds stay. Does not synchronise. Throws `shape_error` on extents that disagree,
/// and `value_error` on k outside 1 to E and on a NaN; nothing is written then.
/// Source: Su 2026, "MoE: balance by optimal allocation", kexue.fm/archives/11619.
inline constexpr detail::balance_thresholds_fn balance_thresholds{};

}  // namespace blackmamba
