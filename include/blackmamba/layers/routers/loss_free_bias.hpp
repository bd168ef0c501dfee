#pragma once
/// \file
/// Balance without a loss: a bias for each expert, which choices see and weights do not.

#include <blackmamba/layers/routers/gating.hpp>

namespace blackmamba {

/// The top_k largest sigmoid(logit) + bias, out of the groups_kept best groups where there are groups; weights are the sigmoids,
/// divided by their sum with `router.normalise` (and top_k > 1). After each step an expert that had less than the mean load gets a
/// bias larger by `router.rate`, one that had more a smaller one. Memory holds the biases, so inference follows the same rule.
/// Reads normalise, rate, groups and groups_kept; with groups it is DeepSeek-V3's router without its small loss per sequence.
///
/// Sources: Wang et al. 2024, arXiv:2408.15664; DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2.
struct LossFreeBias {
  static constexpr char const* name = "bias";
  static constexpr char const* summary = "sigmoid scores, chosen with a bias that evens the load; no loss";

  static constexpr Index memory(Dims const& d) { return d.n_experts; }

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a) {
    choose(pass, d, a.logits, a.memory, a.experts);
    routing::gate(pass, a, Gate::sigmoid, routing::normalises(d));
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, RouterBackwardArgs<T> const& a) {
    routing::gate_backward(pass, d, a, Gate::sigmoid, [&](View<int, 2> experts) { choose(pass, d, a.logits, a.memory, experts); });
  }

  template <Scalar A>
  static void update(Dims const& d, RouterUpdate<A> const& u) {
    Index total = 0;
    for (Index e = 0; e < d.n_experts; ++e) total += u.load(e);
    for (Index e = 0; e < d.n_experts; ++e) {
      Index const over = u.load(e) * d.n_experts - total;
      u.memory(e) += A(over > 0 ? -d.router.rate : over < 0 ? d.router.rate : 0.0);
    }
  }

 private:
  template <class Ctx, Scalar T>
  static void choose(Pass<Ctx, T> const& pass, Dims const& d, View<T const, 2> logits, View<T const, 1> memory,
                     View<int, 2> experts) {
    auto const scope = pass.ctx.scratch().scope();
    route_choose(pass.ctx, RouteChooseArgs<accumulator_t<T>>{.scores = routing::scores(pass, logits, Gate::sigmoid),
                                                             .bias = routing::remembered(pass, memory, d, name),
                                                             .groups = d.router.groups,
                                                             .groups_kept = d.router.groups_kept,
                                                             .experts = experts});
  }
};

}  // namespace blackmamba
