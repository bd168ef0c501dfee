#pragma once
/// \file
/// The k most probable experts, weighted by their probabilities.

#include <blackmamba/ops/route/functions.hpp>
#include <blackmamba/ops/route/route.hpp>

namespace blackmamba {

namespace detail {

template <Scalar T>
struct TopKSoftmaxRule {
  using A = accumulator_t<T>;
  RouteArgs<T> a;

  BLACKMAMBA_HOST_DEVICE A logit(Index i, Index j) const { return widen(a.logits(i, j)); }

  BLACKMAMBA_HOST_DEVICE void operator()(Index i) const {
    Index const E = a.logits.extent(1), k = a.experts.extent(1);
    // The slots in descending order: the next one is the largest of those that come after the previous one in the order
    // (value down, index up). k passes over a short row need no memory.
    Index previous = largest_of_row(a.logits, i);
    A const top = logit(i, previous);
    a.experts(i, 0) = static_cast<int>(previous);
    for (Index slot = 1; slot < k; ++slot) {
      A const last = logit(i, previous);
      A most = last;
      Index next = -1;
      for (Index j = 0; j < E; ++j) {
        A const x = logit(i, j);
        bool const follows = x < last || (x == last && j > previous);
        if (follows && (next < 0 || x > most)) next = j, most = x;
      }
      a.experts(i, slot) = static_cast<int>(previous = next);
    }
    A sum{0};
    if (a.normalise)
      for (Index slot = 0; slot < k; ++slot) sum += gate_exp(logit(i, a.experts(i, slot)) - top);
    else
      for (Index j = 0; j < E; ++j) sum += gate_exp(logit(i, j) - top);
    for (Index slot = 0; slot < k; ++slot) a.weights(i, slot) = gate_exp(logit(i, a.experts(i, slot)) - top) / sum;
  }
  BLACKMAMBA_HOST_DEVICE void refuse(Index i) const {
    fill_experts(a.experts, i);
    fill_row(a.weights, i, A(0));
  }
};

}  // namespace detail

template <std::derived_from<Reference> Ctx, Scalar T>
void route_top_k_softmax_on(Ctx const& ctx, RouteArgs<T> const& a) {
  detail::check_no_nan("route_top_k_softmax", a.logits);
  detail::TopKSoftmaxRule<T> const rule{a};
  for (Index i = 0; i < a.logits.extent(0); ++i) {
    auto const top = rule.logit(i, detail::largest_of_row(a.logits, i));
    check_value(isfinite(top), "route_top_k_softmax", "the largest logit of token ", i, " is ", static_cast<double>(top),
                ", not finite");
  }
  detail::for_each_token(ctx, a.logits.extent(0), a.logits.extent(1), rule);
}

namespace detail {

struct route_top_k_softmax_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, RouteArgs<T> const& a) const {
    check_route("route_top_k_softmax", a);
    ProfileRange const range{"route_top_k_softmax"};
    route_top_k_softmax_on(ctx, a);
  }
};

}  // namespace detail

/// Each token to the k experts of largest probability, best first, the lower index first on ties:
///
///   p = softmax(x) ;   w_s = p_{e_s}, divided by their sum over the k slots with `normalise` (a softmax over the chosen logits)
///
/// Shapes: logits (tokens, E), any strides; experts, weights (tokens, k), 1 ≤ k ≤ E. Read in `T`, computed in accumulator_t<T>.
/// A logit of -inf masks its expert: weight 0. Nothing may alias. Does not synchronise. Throws `shape_error` on extents that
/// disagree, and `value_error` on k outside its range, on a NaN (naming token and expert) and on a row whose largest logit is
/// infinite; nothing is written then.
/// Source: Shazeer et al. 2017, arXiv:1701.06538; renormalised as in Jiang et al. 2024, arXiv:2401.04088.
inline constexpr detail::route_top_k_softmax_fn route_top_k_softmax{};

}  // namespace blackmamba
