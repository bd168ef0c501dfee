#pragma once
/// \file
/// The routing rules on a GPU. A token is one thread's, which compares in the order in which the contexts of the host do: the same
/// logits have the same experts. Scores are computed to the nearest float there and here, but for few.
///
/// What is wrong in the data is told by the context's next wait. Until then experts stay within those there are.

#include <blackmamba/ops/route/rules.cuh>

#include <blackmamba/ops/route/losses_cuda.cuh>
#include <blackmamba/ops/route/plan_report.hpp>
#include <blackmamba/ops/route/threshold_cuda.cuh>

namespace blackmamba {

namespace detail {

template <Scalar T>
BLACKMAMBA_HOST_DEVICE View<T const, 2>& rows_read(Top1SigmoidRule<T>& rule) {
  return rule.a.logits;
}
template <Scalar T>
BLACKMAMBA_HOST_DEVICE View<T const, 2>& rows_read(TopKSoftmaxRule<T>& rule) {
  return rule.a.logits;
}
template <Scalar T>
BLACKMAMBA_HOST_DEVICE View<T const, 2>& rows_read(PositiveRule<T>& rule) {
  return rule.a.logits;
}
template <Scalar T>
BLACKMAMBA_HOST_DEVICE View<int, 2>& rows_written(PositiveRule<T>& rule) {
  return rule.a.experts;
}
BLACKMAMBA_HOST_DEVICE inline View<int, 2>& rows_written(AllRule& rule) { return rule.a.experts; }
template <Scalar A>
BLACKMAMBA_HOST_DEVICE View<A const, 2>& rows_read(ChooseRule<A>& rule) {
  return rule.a.scores;
}
template <Scalar T>
BLACKMAMBA_HOST_DEVICE View<T const, 2>& rows_read(GateRule<T>& rule) {
  return rule.a.logits;
}

inline constexpr auto top1_sigmoid_faults = logit_faults("route_top1_sigmoid");
inline constexpr auto plan_sigmoid_faults = logit_faults("route_plan_sigmoid");
inline constexpr auto top_k_softmax_faults = logit_faults("route_top_k_softmax");
inline constexpr auto positive_faults = logit_faults("route_positive");
inline constexpr auto choose_faults = logit_faults("route_choose");
inline constexpr FaultKind choose_bias_fault{"route_choose", "the bias of expert ", "", " is not finite"};
inline constexpr auto scores_faults = logit_faults("route_scores");
inline constexpr auto gate_faults = logit_faults("route_gate");
inline constexpr auto gate_expert_fault = expert_fault("route_gate");

}  // namespace detail

template <Scalar T>
void route_top1_sigmoid_on(Cuda const& ctx, RouteArgs<T> const& a) {
  detail::for_each_token(ctx, "route_top1_sigmoid", a.logits.extent(0), detail::Top1SigmoidRule<T>{a},
                         detail::check_of(ctx, detail::top1_sigmoid_faults, a.logits));
}

template <Scalar T>
void route_plan_sigmoid_on(Cuda const& ctx, RoutePlanArgs<T> const& a) {
  detail::for_each_token(ctx, "route_plan_sigmoid", a.logits.extent(0), detail::PlanSigmoidRule<T>{a},
                         detail::check_of(ctx, detail::plan_sigmoid_faults, a.logits));
}

template <Scalar T>
void route_top_k_softmax_on(Cuda const& ctx, RouteArgs<T> const& a) {
  detail::for_each_token(ctx, "route_top_k_softmax", a.logits.extent(0), detail::TopKSoftmaxRule<T>{a},
                         detail::check_of(ctx, detail::top_k_softmax_faults, a.logits, true));
}

template <Scalar T>
void route_positive_on(Cuda const& ctx, RoutePositiveArgs<T> const& a) {
  detail::for_each_token(ctx, "route_positive", a.logits.extent(0), detail::PositiveRule<T>{a},
                         detail::check_of(ctx, detail::positive_faults, a.logits));
}

template <std::derived_from<Cuda> Ctx>
void route_all_on(Ctx const& ctx, RouteAllArgs const& a) {
  detail::for_each_token(ctx, "route_all", a.experts.extent(0), detail::AllRule{a});
}

template <std::derived_from<Cuda> Ctx>
void route_draw_on(Ctx const& ctx, RouteDrawArgs const& a) {
  detail::for_each_token(ctx, "route_draw", a.experts.extent(0), detail::DrawRule{a});
}

template <Scalar A>
void route_choose_on(Cuda const& ctx, RouteChooseArgs<A> const& a) {
  auto const scope = ctx.scratch().scope();
  auto check = detail::check_of(ctx, detail::choose_faults, a.scores);
  check.bias = a.bias;
  if (a.bias) check.no_bias = ctx.fault(detail::choose_bias_fault);
  detail::for_each_token(ctx, "route_choose", a.scores.extent(0), detail::choose_rule(ctx, a), check);
}

template <Scalar T>
void route_scores_on(Cuda const& ctx, RouteScoresArgs<T> const& a) {
  auto const reads = detail::gate_reads(a.gate) ? a.logits : View<T const, 2>{};
  detail::for_each_token(ctx, "route_scores", a.logits.extent(0), detail::ScoresRule<T>{a},
                         detail::check_of(ctx, detail::scores_faults, reads, detail::gate_shares(a.gate, false)));
}

template <Scalar T>
void route_gate_on(Cuda const& ctx, RouteGateArgs<T> const& a) {
  auto const reads = detail::gate_reads(a.gate) ? a.logits : View<T const, 2>{};
  auto* const outside = ctx.fault(detail::gate_expert_fault);
  auto check = detail::check_of(ctx, detail::gate_faults, reads, detail::gate_shares(a.gate, a.normalise));
  check.experts = a.experts, check.outside = outside, check.E = a.logits.extent(1);
  detail::for_each_token(ctx, "route_gate", a.logits.extent(0), detail::GateRule<T>{a}, check);
}

/// Expert by expert.
template <Scalar T>
void route_memory_on(Cuda const& ctx, RouteMemoryArgs<T> const& a) {
  detail::for_each_token(ctx, "route_memory", a.out.extent(0), detail::MemoryRule<T>{a});
}

template <Scalar A>
void route_blend_on(Cuda const& ctx, RouteBlendArgs<A> const& a) {
  detail::for_each_token(ctx, "route_blend", a.y.extent(0), detail::BlendRule<A>{a});
}

template <std::derived_from<Cuda> Ctx>
void plan_report_on(Ctx const& ctx, PlanReportArgs const& a) {
  detail::for_each_token(ctx, "plan_report", 1, detail::PlanReportRule{a});
}

}  // namespace blackmamba
