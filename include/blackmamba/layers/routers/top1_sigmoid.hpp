#pragma once
/// \file
/// The published model's rule at inference.

#include <blackmamba/layers/routers/router.hpp>
#include <blackmamba/ops/route/backward.hpp>

namespace blackmamba {

/// expert = argmax_e logit_e, weight = sigmoid(logit_expert), so gradient reaches the router through the gate of the expert that
/// was chosen. Nothing balances the experts. top_k must be 1. Source: Anthony et al. 2024, arXiv:2402.01771, section 4.
struct Top1Sigmoid {
  static constexpr char const* name = "top1";
  static constexpr char const* summary = "the expert of largest logit, gated by its sigmoid; nothing balances";

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const&, RouterArgs<T> const& a) {
    route_top1_sigmoid(pass.ctx, RouteArgs<T>{.logits = a.logits, .experts = a.experts, .weights = a.weights});
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const&, RouterBackwardArgs<T> const& a) {
    route_top1_sigmoid_backward(
        pass.ctx, RouteBackwardArgs<T>{.logits = a.logits, .experts = a.experts, .d_weights = a.d_weights, .d_logits = a.d_logits});
  }
};

}  // namespace blackmamba
