#pragma once
/// \file
/// The gradient of the k largest probabilities, normalised or not.

#include <blackmamba/ops/route/backward.hpp>
#include <blackmamba/ops/route/functions.hpp>

namespace blackmamba {

namespace detail {

/// The expert that `route_top_k_softmax` gives to slot `slot` of a token: one step a slot down the order (value down, index up).
template <Scalar T>
BLACKMAMBA_HOST_DEVICE Index expert_at_rank(View<T const, 1> logits, Index slot) {
  auto last = widen(logits(0));
  Index at = 0;
  for (Index j = 1; j < logits.extent(0); ++j)
    if (auto const x = widen(logits(j)); x > last) at = j, last = x;
  for (; slot > 0; --slot) {
    Index next = -1;
    auto most = last;
    for (Index j = 0; j < logits.extent(0); ++j) {
      auto const x = widen(logits(j));
      bool const follows = x < last || (x == last && j > at);
      if (follows && (next < 0 || x > most)) next = j, most = x;
    }
    at = next, last = most;
  }
  return at;
}

template <Scalar T>
struct TopKSoftmaxBackwardRule {
  using A = accumulator_t<T>;
  RouteBackwardArgs<T> a;

  BLACKMAMBA_HOST_DEVICE void operator()(Index i) const {
    Index const E = a.logits.extent(1), k = a.experts.extent(1);
    auto const logits = a.logits[i];
    A const top = widen(logits(expert_at_rank(logits, 0)));
    auto const mass = [&](Index j) -> A { return gate_exp(widen(logits(j)) - top); };
    // A dropped slot has no gradient of its own, yet its probability was part of the sum that normalised the others.
    auto const chosen = [&](Index s) -> Index { return a.experts(i, s) >= 0 ? a.experts(i, s) : expert_at_rank(logits, s); };

    A sum{0}, mean{0};  // of the masses; of d_weights under the probabilities
    if (a.normalise)
      for (Index s = 0; s < k; ++s) sum += mass(chosen(s));
    else
      for (Index j = 0; j < E; ++j) sum += mass(j);
    for (Index s = 0; s < k; ++s)
      if (a.experts(i, s) >= 0) mean += mass(a.experts(i, s)) * a.d_weights(i, s);
    mean /= sum;

    for (Index j = 0; j < E; ++j) a.d_logits(i, j) = static_cast<T>(a.normalise ? A(0) : -(mass(j) / sum * mean));
    for (Index s = 0; s < k; ++s) {
      bool const dropped = a.experts(i, s) < 0;
      if (dropped && !a.normalise) continue;
      Index const e = chosen(s);
      a.d_logits(i, e) = static_cast<T>(mass(e) / sum * ((dropped ? A(0) : a.d_weights(i, s)) - mean));
    }
  }
  BLACKMAMBA_HOST_DEVICE void refuse(Index i) const { fill_row(a.d_logits, i, static_cast<T>(A(0))); }
};

}  // namespace detail

template <std::derived_from<Reference> Ctx, Scalar T>
void route_top_k_softmax_backward_on(Ctx const& ctx, RouteBackwardArgs<T> const& a) {
  detail::check_experts("route_top_k_softmax_backward", a.experts, a.logits.extent(1));
  detail::check_no_nan("route_top_k_softmax_backward", a.logits);
  detail::for_each_token(ctx, a.logits.extent(0), a.logits.extent(1), detail::TopKSoftmaxBackwardRule<T>{a});
}

namespace detail {

struct route_top_k_softmax_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, RouteBackwardArgs<T> const& a) const {
    check_route_backward("route_top_k_softmax_backward", a);
    ProfileRange const range{"route_top_k_softmax_backward"};
    route_top_k_softmax_backward_on(ctx, a);
  }
};

}  // namespace detail

/// Gradient of `route_top_k_softmax`. With p the softmax over the chosen logits (`normalise`) or over all of them, w_s = p_{e_s}:
///
///   ∂p_i/∂x_j = p_i ([i = j] - p_j)   ⇒   d_logits_j = p_j (g_j - Σ_i p_i g_i) ,   g_j = d_weights_s where e_s = j, else 0
///
/// and 0 for the experts that were not chosen with `normalise`, since p does not see them then.
///
/// Shapes: logits, d_logits (tokens, E), any strides; experts, d_weights (tokens, k), 1 ≤ k ≤ E. Read in `T`, computed in
/// accumulator_t<T>, rounded once; d_logits is overwritten. A slot that was dropped after the rule wrote it (expert -1) adds no
/// gradient of its own, g = 0; the rule counted its probability, so with `normalise` its logit still moves the weights of the
/// others, and which logit that is is found again from its rank. Nothing may alias. Does not synchronise. Throws `shape_error` on
/// extents that disagree, and `value_error` on k outside its range, on an expert outside -1 to E - 1 and on a NaN (naming token
/// and expert); nothing is written then.
/// Source: Shazeer et al. 2017, arXiv:1701.06538.
inline constexpr detail::route_top_k_softmax_backward_fn route_top_k_softmax_backward{};

}  // namespace blackmamba
