#pragma once
/// \file
/// Balance without a loss or a rate: each expert's threshold is a quantile of the scores.

#include <blackmamba/layers/routers/gating.hpp>

namespace blackmamba {

/// The top_k largest sigmoid(logit) - threshold, weighted by the sigmoid. Thresholds are the dual of the allocation that gives
/// tokens · k / E tokens to every expert: in training one round of quantiles on the pass (`balance_thresholds`) moves them from
/// where the last pass left them, and the pass is routed by them. Memory holds those of the last step, and inference goes by it.
///
/// Source: Su 2026, kexue.fm/archives/11619 ("quantile balancing"). Ours: a pass is routed by its own thresholds, so it is nearly
/// even from the first step on; that looks at the other tokens of the batch, as Sinkhorn's plan does, in training alone.
struct Quantile {
  static constexpr char const* name = "quantile";
  static constexpr char const* summary = "sigmoid scores, chosen beyond each expert's quantile of them; no loss";

  static constexpr Index memory(Dims const& d) { return d.n_experts; }

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a) {
    using A = accumulator_t<T>;
    auto const scope = pass.ctx.scratch().scope();
    auto const scores = routing::scores(pass, a.logits, Gate::sigmoid);
    auto const thresholds = routing::carried(pass, a, d, name);
    for (int round = 0; pass.mode == Mode::training && round < 2; ++round)
      balance_thresholds(pass.ctx, BalanceThresholdsArgs<A>{.scores = scores, .k = d.top_k, .thresholds = thresholds});
    if (a.observed && pass.mode == Mode::training) routing::assign(pass.ctx, a.observed, thresholds);
    routing::assign(pass.ctx, thresholds, thresholds, -1);
    route_choose(pass.ctx, RouteChooseArgs<A>{.scores = scores, .bias = thresholds, .experts = a.experts});
    routing::gate(pass, a, Gate::sigmoid, false);
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const&, RouterBackwardArgs<T> const& a) {
    routing::gate_backward(pass, a, Gate::sigmoid);
  }

  template <Scalar A>
  static void update(Dims const&, RouterUpdate<A> const& u) {
    routing::keep_observed(u);
  }
};

}  // namespace blackmamba
