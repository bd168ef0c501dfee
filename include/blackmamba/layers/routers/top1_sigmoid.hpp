#pragma once
/// \file
/// The published model's rule at inference.

#include <blackmamba/layers/routers/router.hpp>
#include <blackmamba/ops/route/route.hpp>

namespace blackmamba {

/// expert = argmax_e logit_e, weight = sigmoid(logit_expert). top_k must be 1.
/// Source: Anthony et al. 2024, arXiv:2402.01771, section 4.
struct Top1Sigmoid {
  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const&, Input<T, 2> logits, Output<int, 2> experts,
                    Output<accumulator_t<T>, 2> weights) {
    route_top1_sigmoid(pass.ctx, RouteArgs<T>{.logits = logits, .experts = experts, .weights = weights});
  }
};

}  // namespace blackmamba
