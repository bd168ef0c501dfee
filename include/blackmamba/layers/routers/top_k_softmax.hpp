#pragma once
/// \file
/// The usual mixture: the k most probable experts.

#include <blackmamba/layers/routers/gating.hpp>

namespace blackmamba {

/// The `top_k` largest of softmax(logits), weighted by their probabilities: softmax before selection. With `router.normalise` the
/// weights of a token are divided by their sum, which is softmax after selection; not where top_k is 1, for a weight that is always
/// 1 would teach the router nothing. Nothing balances the experts.
/// Sources: Shazeer et al. 2017, arXiv:1701.06538 (normalised); Fedus et al. 2021, arXiv:2101.03961 (as they are).
struct TopKSoftmax {
  static constexpr char const* name = "topk";
  static constexpr char const* summary = "the k most probable experts, weighted by their probabilities";

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a) {
    route_top_k_softmax(
        pass.ctx,
        RouteArgs<T>{.logits = a.logits, .experts = a.experts, .weights = a.weights, .normalise = routing::normalises(d)});
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, RouterBackwardArgs<T> const& a) {
    route_top_k_softmax_backward(pass.ctx, RouteBackwardArgs<T>{.logits = a.logits,
                                                                .experts = a.experts,
                                                                .d_weights = a.d_weights,
                                                                .normalise = routing::normalises(d),
                                                                .d_logits = a.d_logits});
  }
};

}  // namespace blackmamba
