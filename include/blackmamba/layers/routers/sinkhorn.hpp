#pragma once
/// \file
/// Balance by optimal transport while the network learns, the published model's plain rule afterwards.

#include <blackmamba/layers/routers/top1_sigmoid.hpp>
#include <blackmamba/ops/sinkhorn/sinkhorn.hpp>

namespace blackmamba {

/// In training: plan = Sinkhorn(logits) with equal marginals, expert = argmax of the token's row, weight = sigmoid of its logit, so
/// that gradient reaches the router through the gate alone. At inference a token's expert must not depend on the others of its
/// batch: `Top1Sigmoid`. top_k must be 1.
///
/// The plan is solved in the log domain to a marginal error of 1e-3, which an argmax does not see, in at most 100 iterations.
/// Source: Anthony et al. 2024, arXiv:2402.01771, section 4; Clark et al. 2022, arXiv:2202.01169.
struct Sinkhorn {
  static constexpr char const* name = "sinkhorn";

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a) {
    if (pass.mode == Mode::inference) return Top1Sigmoid::route(pass, d, a);
    auto const scope = pass.ctx.scratch().scope();
    auto const plan = pass.ctx.scratch().template take<accumulator_t<T>>(a.logits.shape());
    auto const report = sinkhorn_log(
        pass.ctx, SinkhornLogArgs<T>{.logits = a.logits, .plan = plan, .tolerance = 1e-3, .max_iterations = d.router.iterations});
    if (a.report) a.report->iterations = report.iterations, a.report->marginal_error = report.marginal_error;
    route_plan_sigmoid(pass.ctx, RoutePlanArgs<T>{.plan = plan, .logits = a.logits, .experts = a.experts, .weights = a.weights});
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, RouterBackwardArgs<T> const& a) {
    Top1Sigmoid::backward(pass, d, a);
  }
};

}  // namespace blackmamba
