#pragma once
/// \file
/// What the Sinkhorn routers share: how a plan becomes experts and weights, and what they do without one.

#include <blackmamba/layers/routers/gating.hpp>
#include <blackmamba/layers/routers/top1_sigmoid.hpp>
#include <blackmamba/ops/route/plan_report.hpp>
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

/// In training the experts are those that get most of a token by the plan that `solve(plan, report)` writes.
template <class Ctx, Scalar T, class Solve>
void route_by_plan(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a, Solve const& solve) {
  auto const scope = pass.ctx.scratch().scope();
  auto const plan = pass.ctx.scratch().template take<accumulator_t<T>>(a.logits.shape());
  View<SinkhornReport, 1> report{};
  if (a.report) report = pass.ctx.scratch().template take<SinkhornReport>(Shape<1>{1});
  solve(plan, report);
  // A report is looked at where it lies: here it has an address alone.
  if (auto* const to = a.report.data())
    plan_report(pass.ctx, PlanReportArgs{.report = report,
                                         .iterations = {&to->iterations, Shape<1>{1}},
                                         .marginal_error = {&to->marginal_error, Shape<1>{1}}});
  route_choose(pass.ctx, RouteChooseArgs<accumulator_t<T>>{.scores = plan, .experts = a.experts});
  gate(pass, a, plan_gate(d), false);
}

}  // namespace blackmamba::routing
