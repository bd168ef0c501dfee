#pragma once
/// \file
/// The usual mixture: the k most probable experts.

#include <blackmamba/layers/routers/router.hpp>
#include <blackmamba/ops/route/route.hpp>

namespace blackmamba {

/// The `top_k` largest of softmax(logits), weighted by their probabilities. `Normalise`: the weights of a token sum to one.
/// Sources: Shazeer et al. 2017, arXiv:1701.06538 (normalised); Fedus et al. 2021, arXiv:2101.03961 (as they are).
template <bool Normalise = true>
struct TopKSoftmax {
  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const&, Input<T, 2> logits, Output<int, 2> experts,
                    Output<accumulator_t<T>, 2> weights) {
    route_top_k_softmax(pass.ctx, RouteArgs<T>{.logits = logits, .experts = experts, .weights = weights, .normalise = Normalise});
  }
};

}  // namespace blackmamba
