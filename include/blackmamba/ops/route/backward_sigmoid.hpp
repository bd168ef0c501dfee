#pragma once
/// \file
/// The gradient of a gate that is the sigmoid of the chosen logit, however that was chosen.

#include <blackmamba/ops/route/backward.hpp>
#include <blackmamba/ops/route/functions.hpp>

namespace blackmamba {

namespace detail {

template <Scalar T>
struct SigmoidBackwardRule {
  using A = accumulator_t<T>;
  RouteBackwardArgs<T> a;

  BLACKMAMBA_HOST_DEVICE void operator()(Index i) const {
    refuse(i);
    int const e = a.experts(i, 0);
    if (e < 0) return;
    // σ(-x) for 1 - σ(x), which would cancel where the gate is nearly open.
    A const x = widen(a.logits(i, e));
    a.d_logits(i, e) = static_cast<T>(a.d_weights(i, 0) * gate_sigmoid(x) * gate_sigmoid(-x));
  }
  BLACKMAMBA_HOST_DEVICE void refuse(Index i) const { fill_row(a.d_logits, i, static_cast<T>(A(0))); }
};

template <class Ctx, Scalar T>
void sigmoid_gate_backward(char const* op, Ctx const& ctx, RouteBackwardArgs<T> const& a) {
  check_experts(op, a.experts, a.logits.extent(1));
  for_each_token(ctx, a.logits.extent(0), a.logits.extent(1), SigmoidBackwardRule<T>{a});
}

template <Scalar T>
void check_sigmoid_gate(char const* op, RouteBackwardArgs<T> const& a) {
  check_value(a.experts.extent(1) == 1, op, "experts has ", a.experts.extent(1), " slots for a token, the rule fills 1");
  check_route_backward(op, a);
}

}  // namespace detail

template <std::derived_from<Reference> Ctx, Scalar T>
void route_top1_sigmoid_backward_on(Ctx const& ctx, RouteBackwardArgs<T> const& a) {
  detail::sigmoid_gate_backward("route_top1_sigmoid_backward", ctx, a);
}

template <std::derived_from<Reference> Ctx, Scalar T>
void route_plan_sigmoid_backward_on(Ctx const& ctx, RouteBackwardArgs<T> const& a) {
  detail::sigmoid_gate_backward("route_plan_sigmoid_backward", ctx, a);
}

namespace detail {

struct route_top1_sigmoid_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, RouteBackwardArgs<T> const& a) const {
    check_sigmoid_gate("route_top1_sigmoid_backward", a);
    ProfileRange const range{"route_top1_sigmoid_backward"};
    route_top1_sigmoid_backward_on(ctx, a);
  }
};

struct route_plan_sigmoid_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, RouteBackwardArgs<T> const& a) const {
    check_sigmoid_gate("route_plan_sigmoid_backward", a);
    ProfileRange const range{"route_plan_sigmoid_backward"};
    route_plan_sigmoid_backward_on(ctx, a);
  }
};

}  // namespace detail

/// Gradient of `route_top1_sigmoid`, with e the token's expert and σ the sigmoid:
///
///   w = σ(x_e)   ⇒   ∂w/∂x_j = [j = e] σ(x_e) σ(-x_e) ;   d_logits_j = d_weights · ∂w/∂x_j
///
/// Shapes: logits, d_logits (tokens, E), any strides; experts, d_weights (tokens, 1). Read in `T`, computed in accumulator_t<T>,
/// rounded once; d_logits is overwritten, with zeros for a dropped token (expert -1). `normalise` has nothing to do. Nothing may
/// alias. Does not synchronise. Throws `shape_error` on extents that disagree, and `value_error` on more than one slot and on an
/// expert outside -1 to E - 1; nothing is written then.
inline constexpr detail::route_top1_sigmoid_backward_fn route_top1_sigmoid_backward{};

/// Gradient of `route_plan_sigmoid`. The plan chose, and a choice has no gradient, so it is that of `route_top1_sigmoid_backward`
/// with the plan's experts, and the plan itself is not needed. Shapes, scalars, aliasing and errors as there.
/// Source: Anthony et al. 2024, arXiv:2402.01771, section 4; Clark et al. 2022, arXiv:2202.01169, section 3.1.
inline constexpr detail::route_plan_sigmoid_backward_fn route_plan_sigmoid_backward{};

}  // namespace blackmamba
