#pragma once
/// \file
/// What the Sinkhorn routers share: how a plan becomes experts and weights, and what they do without one.

#include <blackmamba/layers/routers/gating.hpp>
#include <blackmamba/layers/routers/top1_sigmoid.hpp>
#include <blackmamba/ops/sinkhorn/sinkhorn.hpp>

namespace blackmamba::routing {

/// The sigmoid of its logit gates a single expert; k of them are weighted by their probabilities, which do not sum to one, so that
/// what was dropped of them has no part in the gradient.
constexpr Gate plan_gate(Dims const& d) { return d.top_k == 1 ? Gate::sigmoid : Gate::softmax; }

/// At inference a token's experts must not depend on the others of its batch: those of largest logit.
template <class Ctx, Scalar T>
void route_without_plan(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a) {
  if (d.top_k == 1) return Top1Sigmoid::route(pass, d, a);
  route_top_k_softmax(pass.ctx, RouteArgs<T>{.logits = a.logits, .experts = a.experts, .weights = a.weights, .normalise = false});
}

/// In training the experts are those that get most of a token by the plan that `solve(plan)` writes.
template <class Ctx, Scalar T, class Solve>
void route_by_plan(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a, Solve const& solve) {
  auto const scope = pass.ctx.scratch().scope();
  auto const plan = pass.ctx.scratch().template take<accumulator_t<T>>(a.logits.shape());
  SinkhornReport const report = solve(plan);
  if (a.report) a.report(0).iterations = report.iterations, a.report(0).marginal_error = report.marginal_error;
  route_choose(pass.ctx, RouteChooseArgs<accumulator_t<T>>{.scores = plan, .experts = a.experts});
  gate(pass, a, plan_gate(d), false);
}

}  // namespace blackmamba::routing
