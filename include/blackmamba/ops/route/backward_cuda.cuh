#pragma once
/// \file
/// The gradients of the routing rules on a GPU, a thread a token.

#include <blackmamba/ops/route/backward.hpp>
#include <blackmamba/ops/route/rules.cuh>

namespace blackmamba {

namespace detail {

template <Scalar T>
BLACKMAMBA_HOST_DEVICE View<T const, 2>& rows_read(GateBackwardRule<T>& rule) {
  return rule.a.logits;
}
template <Scalar T>
BLACKMAMBA_HOST_DEVICE View<T, 2>& rows_written(GateBackwardRule<T>& rule) {
  return rule.a.d_logits;
}
template <Scalar T>
BLACKMAMBA_HOST_DEVICE View<T const, 2>& rows_read(TopKSoftmaxBackwardRule<T>& rule) {
  return rule.a.logits;
}
template <Scalar T>
BLACKMAMBA_HOST_DEVICE View<T, 2>& rows_written(TopKSoftmaxBackwardRule<T>& rule) {
  return rule.a.d_logits;
}
template <Scalar T>
BLACKMAMBA_HOST_DEVICE View<T, 2>& rows_written(SigmoidBackwardRule<T>& rule) {
  return rule.a.d_logits;
}

inline constexpr auto gate_backward_faults = logit_faults("route_gate_backward");
inline constexpr auto gate_backward_expert_fault = expert_fault("route_gate_backward");
inline constexpr auto top1_sigmoid_backward_fault = expert_fault("route_top1_sigmoid_backward");
inline constexpr auto plan_sigmoid_backward_fault = expert_fault("route_plan_sigmoid_backward");
inline constexpr auto top_k_softmax_backward_faults = logit_faults("route_top_k_softmax_backward");
inline constexpr auto top_k_softmax_backward_expert_fault = expert_fault("route_top_k_softmax_backward");

template <Scalar T>
void sigmoid_gate_backward(FaultKind const& kind, Cuda const& ctx, RouteBackwardArgs<T> const& a) {
  TokenCheck<T> const check{.experts = a.experts, .outside = ctx.fault(kind), .E = a.logits.extent(1)};
  for_each_token(ctx, kind.op, a.logits.extent(0), SigmoidBackwardRule<T>{a}, check);
}

}  // namespace detail

template <Scalar T>
void route_top1_sigmoid_backward_on(Cuda const& ctx, RouteBackwardArgs<T> const& a) {
  detail::sigmoid_gate_backward(detail::top1_sigmoid_backward_fault, ctx, a);
}

template <Scalar T>
void route_plan_sigmoid_backward_on(Cuda const& ctx, RouteBackwardArgs<T> const& a) {
  detail::sigmoid_gate_backward(detail::plan_sigmoid_backward_fault, ctx, a);
}

template <Scalar T>
void route_top_k_softmax_backward_on(Cuda const& ctx, RouteBackwardArgs<T> const& a) {
  auto* const outside = ctx.fault(detail::top_k_softmax_backward_expert_fault);
  auto check = detail::check_of(ctx, detail::top_k_softmax_backward_faults, a.logits);
  check.experts = a.experts, check.outside = outside;
  detail::for_each_token(ctx, "route_top_k_softmax_backward", a.logits.extent(0), detail::TopKSoftmaxBackwardRule<T>{a}, check);
}

template <Scalar T>
void route_gate_backward_on(Cuda const& ctx, RouteGateBackwardArgs<T> const& a) {
  auto const reads = detail::gate_reads(a.gate) ? a.logits : View<T const, 2>{};
  auto* const outside = ctx.fault(detail::gate_backward_expert_fault);
  auto check = detail::check_of(ctx, detail::gate_backward_faults, reads, detail::gate_shares(a.gate, a.normalise));
  check.experts = a.experts, check.chosen = a.chosen, check.outside = outside, check.E = a.logits.extent(1);
  detail::for_each_token(ctx, "route_gate_backward", a.logits.extent(0),
                         detail::GateBackwardRule<T>{a, a.chosen ? a.chosen : a.experts}, check);
}

}  // namespace blackmamba
