#pragma once
/// \file
/// The published BlackMamba's rule in training: a balanced plan chooses the expert, the sigmoid of its logit gates it.

#include <blackmamba/ops/route/functions.hpp>
#include <blackmamba/ops/route/route.hpp>

namespace blackmamba {

/// Arguments of `route_plan_sigmoid`.
template <Scalar T>
struct RoutePlanArgs {
  View<accumulator_t<T> const, 2> plan{};  ///< (tokens, E) how much of a token an expert should get
  View<T const, 2> logits{};               ///< (tokens, E) the router's outputs
  View<int, 2> experts{};                  ///< (tokens, 1) out: the chosen expert
  View<accumulator_t<T>, 2> weights{};     ///< (tokens, 1) out: its gate
};

namespace detail {

template <Scalar T>
struct PlanSigmoidRule {
  RoutePlanArgs<T> a;

  BLACKMAMBA_HOST_DEVICE void operator()(Index i) const {
    Index const best = largest_of_row(a.plan, i);
    a.experts(i, 0) = static_cast<int>(best);
    a.weights(i, 0) = gate_sigmoid(widen(a.logits(i, best)));
  }
  BLACKMAMBA_HOST_DEVICE void refuse(Index i) const {
    fill_experts(a.experts, i);
    fill_row(a.weights, i, accumulator_t<T>(0));
  }
};

}  // namespace detail

template <std::derived_from<Reference> Ctx, Scalar T>
void route_plan_sigmoid_on(Ctx const& ctx, RoutePlanArgs<T> const& a) {
  detail::check_no_nan("route_plan_sigmoid", a.logits);
  detail::for_each_token(ctx, a.logits.extent(0), a.logits.extent(1), detail::PlanSigmoidRule<T>{a});
}

namespace detail {

struct route_plan_sigmoid_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, RoutePlanArgs<T> const& a) const {
    Index const tokens = a.logits.extent(0), E = a.logits.extent(1);
    check_value(tokens == 0 || E >= 1, "route_plan_sigmoid", "logits has ", tokens, " tokens and no expert to give them to");
    check_shape("route_plan_sigmoid", "plan", a.plan, a.logits.shape(), "logits");
    check_shape("route_plan_sigmoid", "experts", a.experts, Shape<2>{tokens, 1}, "logits");
    check_shape("route_plan_sigmoid", "weights", a.weights, Shape<2>{tokens, 1}, "logits");
    ProfileRange const range{"route_plan_sigmoid"};
    route_plan_sigmoid_on(ctx, a);
  }
};

}  // namespace detail

/// Each token to the expert that a plan gives most of it to, the lowest index on ties, gated by its own logit:
///
///   e = argmax_j plan_j ;   w = 1 / (1 + exp(-x_e))
///
/// Shapes: plan, logits (tokens, E), any strides; experts, weights (tokens, 1). Logits in `T`, all else in accumulator_t<T>.
/// Nothing may alias. Does not synchronise. Throws `shape_error` on extents that disagree, and `value_error` on a logit that is NaN
/// (naming token and expert); nothing is written then.
/// Source: Anthony et al. 2024, arXiv:2402.01771, section 4; Clark et al. 2022, arXiv:2202.01169, section 3.1.
inline constexpr detail::route_plan_sigmoid_fn route_plan_sigmoid{};

}  // namespace blackmamba
