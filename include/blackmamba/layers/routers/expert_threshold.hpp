#pragma once
/// \file
/// Experts choose tokens by a threshold that they bring along.

#include <blackmamba/layers/routers/gating.hpp>

namespace blackmamba {

/// Every expert takes the tokens whose sigmoid(logit) reaches its threshold, in training and at inference alike, so nothing depends
/// on other tokens; a token has any number of experts, weighted by their sigmoids. One slot for each expert. The threshold is an
/// average over steps (`router.average` of it stays) of the score that the best tokens · top_k / E tokens of a step reach, so top_k
/// experts a token on average. The first step, which has none yet, takes its own; before it, inference takes 1/2. Reads average.
///
/// Source: Sun et al. 2026, arXiv:2603.11535.
struct ExpertThreshold {
  static constexpr char const* name = "expert-threshold";
  static constexpr char const* summary = "each expert takes the tokens above its threshold, an average over steps";

  static constexpr Index slots(Dims const& d) { return d.n_experts; }
  static constexpr Index memory(Dims const& d) { return d.n_experts; }

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a) {
    using A = accumulator_t<T>;
    Index const tokens = a.logits.extent(0), E = d.n_experts;
    auto const scope = pass.ctx.scratch().scope();
    auto const scores = routing::scores(pass, a.logits, Gate::sigmoid);
    auto const thresholds = routing::remembered(pass, a.memory, d, name, 0.5);
    if (pass.mode == Mode::training && tokens > 0) {
      auto const reached = pass.ctx.scratch().template take<A>(Shape<1>{E});
      route_expert_choice(
          pass.ctx, ExpertChoiceArgs<A>{
                        .scores = scores, .capacity = even_share(tokens, d.top_k, E), .experts = a.experts, .thresholds = reached});
      routing::observe_mean(pass.ctx, a.observed, reached, tokens);
      route_memory(pass.ctx, RouteMemoryArgs<T>{.memory = a.memory, .instead = reached, .out = thresholds});
    }
    route_threshold(pass.ctx, RouteThresholdArgs<A>{.scores = scores, .thresholds = thresholds, .experts = a.experts});
    routing::gate(pass, a, Gate::sigmoid, false);
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const&, RouterBackwardArgs<T> const& a) {
    routing::gate_backward(pass, a, Gate::sigmoid);
  }

  template <Scalar A>
  static void update(Dims const& d, RouterUpdate<A> const& u) {
    routing::average_observed(d, u);
  }
};

}  // namespace blackmamba
