#pragma once
/// \file
/// Experts choose tokens.

#include <blackmamba/layers/routers/gating.hpp>

namespace blackmamba {

/// In training every expert takes the tokens · top_k / E tokens of the pass that give it the largest probability: the load is even
/// by construction, and a token has any number of experts, weighted by their probabilities. One slot for each expert.
///
/// Which tokens are best is not known before they all are, so the published rule cannot generate text. At inference a token goes to
/// the experts whose usual least probability it reaches: memory averages that over steps (`router.average` of it stays), and before
/// any step it is 1 / E. So a token's experts do not depend on others. Reads average.
/// Source: Zhou et al. 2022, arXiv:2202.09368; the rule at inference is ours, after Sun et al. 2026, arXiv:2603.11535.
struct ExpertChoice {
  static constexpr char const* name = "expert-choice";
  static constexpr char const* summary = "each expert takes its share of best tokens in training, those above its threshold after";

  static constexpr Index slots(Dims const& d) { return d.n_experts; }
  static constexpr Index memory(Dims const& d) { return d.n_experts; }

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a) {
    using A = accumulator_t<T>;
    Index const tokens = a.logits.extent(0), E = d.n_experts;
    auto const scope = pass.ctx.scratch().scope();
    auto const scores = routing::scores(pass, a.logits, Gate::softmax);
    // Even odds, before there is a step to remember.
    auto const thresholds = routing::remembered(pass, a.memory, d, name, 1.0 / static_cast<double>(E));
    if (pass.mode == Mode::training) {
      route_expert_choice(
          pass.ctx,
          ExpertChoiceArgs<A>{
              .scores = scores, .capacity = even_share(tokens, d.top_k, E), .experts = a.experts, .thresholds = thresholds});
      if (tokens > 0) routing::observe_mean(pass.ctx, a.observed, thresholds, tokens);
    } else {
      route_threshold(pass.ctx, RouteThresholdArgs<A>{.scores = scores, .thresholds = thresholds, .experts = a.experts});
    }
    routing::gate(pass, a, Gate::softmax, false);
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const&, RouterBackwardArgs<T> const& a) {
    routing::gate_backward(pass, a, Gate::softmax);
  }

  template <Scalar A>
  static void update(Dims const& d, RouterUpdate<A> const& u) {
    routing::average_observed(d, u);
  }
};

}  // namespace blackmamba
