#pragma once
/// \file
/// The usual mixture, made even by a loss.

#include <blackmamba/layers/routers/top_k_softmax.hpp>
#include <blackmamba/ops/dispatch/load.hpp>

namespace blackmamba {

/// `TopKSoftmax`, and the loss balance · E Σ_e f_e P_e in training, with f_e the share of the assignments that expert e has and P_e
/// its mean probability: over the pass, over each sequence apart, or with f counted over all passes of the step, as `router.scope`
/// says. f counts what the rule chose, whether or not a full expert dropped it. Reads normalise, balance and scope.
///
/// Sources: Fedus et al. 2021, arXiv:2101.03961, section 2.2; scopes DeepSeek-AI 2024, arXiv:2412.19437; Qiu et al. 2025,
/// arXiv:2501.11873.
struct Switch {
  static constexpr char const* name = "switch";
  static constexpr char const* summary = "topk with the load-balancing loss of the Switch transformer";

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a) {
    TopKSoftmax::route(pass, d, a);
    if (pass.mode == Mode::inference || !a.observed) return;
    auto const scope = pass.ctx.scratch().scope();
    auto const load = pass.ctx.scratch().template take_zeros<Index>(a.observed.shape());
    expert_load(pass.ctx, ExpertLoadArgs{.experts = a.experts, .load = load});
    route_blend(pass.ctx, RouteBlendArgs<accumulator_t<T>>{.counts = load, .add = true, .y = a.observed});
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, RouterBackwardArgs<T> const& a) {
    TopKSoftmax::backward(pass, d, a);
  }

  template <class Ctx, Scalar T>
  static void loss(Pass<Ctx, T> const& pass, Dims const& d, RouterLossArgs<T> const& a) {
    routing::balance(pass, d, a, [&](View<int, 2> experts) {
      auto const weights = pass.ctx.scratch().template take<accumulator_t<T>>(experts.shape());
      TopKSoftmax::route(pass, d, RouterArgs<T>{.logits = a.logits, .experts = experts, .weights = weights});
    });
  }
};

}  // namespace blackmamba
