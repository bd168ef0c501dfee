#pragma once
/// \file
/// Routing that is differentiable throughout: an expert is off where its weight is zero.

#include <blackmamba/layers/routers/gating.hpp>

namespace blackmamba {

/// weight = max(logit, 0), and an expert with a positive weight takes the token: one slot for each expert, and no choice whose
/// gradient is missing. An L1 loss λ · `sparsity_loss` makes the weights sparse and even; after each step λ grows by a factor
/// of 1.2 where tokens have more than top_k experts on average, and shrinks by it where they have fewer. Memory holds log(λ /
/// 1e-8): zeros are the paper's start. The same rule at inference. Reads no option.
///
/// Source: Wang et al. 2024, arXiv:2412.14711, with its numbers. Ours: λ is a layer's own, where the paper's network shares one.
struct ReluRouter {
  static constexpr char const* name = "relu";
  static constexpr char const* summary = "weights max(logit, 0), made sparse by an L1 loss that adapts";
  static constexpr double log_step = 0.18232155679395462621;  ///< log 1.2

  static constexpr Index slots(Dims const& d) { return d.n_experts; }
  static constexpr Index memory(Dims const&) { return 1; }

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const&, RouterArgs<T> const& a) {
    route_positive(pass.ctx, RoutePositiveArgs<T>{.logits = a.logits, .experts = a.experts});
    routing::gate(pass, a, Gate::relu, false);
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const&, RouterBackwardArgs<T> const& a) {
    routing::gate_backward(pass, a, Gate::relu);
  }

  template <class Ctx, Scalar T>
  static void loss(Pass<Ctx, T> const& pass, Dims const& d, RouterLossArgs<T> const& a) {
    sparsity_loss(pass.ctx, SparsityLossArgs<T>{.logits = a.logits,
                                                .k = d.top_k,
                                                .coefficient = 1e-8,
                                                .log_coefficient = a.memory,
                                                .scale = a.scale,
                                                .loss = a.loss,
                                                .d_logits = a.d_logits});
  }

  template <Scalar A>
  static void update(Dims const& d, RouterUpdate<A> const& u) {
    Index over = -u.tokens * d.top_k;
    for (Index e = 0; e < d.n_experts; ++e) over += u.load(e);
    u.memory(0) += A(over > 0 ? log_step : over < 0 ? -log_step : 0.0);
  }
};

}  // namespace blackmamba
