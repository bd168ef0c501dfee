#pragma once
/// \file
/// The published BlackMamba's rule at inference: the expert with the largest logit, gated by its sigmoid.

#include <blackmamba/ops/route/functions.hpp>
#include <blackmamba/ops/route/route.hpp>

namespace blackmamba {

namespace detail {

template <Scalar T>
struct Top1SigmoidRule {
  RouteArgs<T> a;

  BLACKMAMBA_HOST_DEVICE void operator()(Index i) const {
    Index const best = largest_of_row(a.logits, i);
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
void route_top1_sigmoid_on(Ctx const& ctx, RouteArgs<T> const& a) {
  detail::check_no_nan("route_top1_sigmoid", a.logits);
  detail::for_each_token(ctx, a.logits.extent(0), a.logits.extent(1), detail::Top1SigmoidRule<T>{a});
}

namespace detail {

struct route_top1_sigmoid_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, RouteArgs<T> const& a) const {
    check_route("route_top1_sigmoid", a);
    check_value(a.experts.extent(1) == 1, "route_top1_sigmoid", "experts has ", a.experts.extent(1),
                " slots for a token, the rule fills 1");
    ProfileRange const range{"route_top1_sigmoid"};
    route_top1_sigmoid_on(ctx, a);
  }
};

}  // namespace detail

/// Each token to the expert with the largest logit, the lowest index on ties:
///
///   e = argmax_j x_j ;   w = 1 / (1 + exp(-x_e))
///
/// Shapes: logits (tokens, E), any strides; experts, weights (tokens, 1). Read in `T`, computed in accumulator_t<T>; `normalise`
/// has nothing to do. Nothing may alias. Does not synchronise. Throws `shape_error` on extents that disagree, and `value_error`
/// on more than one slot and on a NaN (naming token and expert); nothing is written then.
/// Source: Anthony et al. 2024, arXiv:2402.01771, and its published code.
inline constexpr detail::route_top1_sigmoid_fn route_top1_sigmoid{};

}  // namespace blackmamba
