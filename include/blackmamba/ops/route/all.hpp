#pragma once
/// \file
/// Rules without a choice: every expert, and every expert whose logit is positive.

#include <blackmamba/ops/route/route.hpp>

namespace blackmamba {

/// Arguments of `route_all`.
struct RouteAllArgs {
  View<int, 2> experts{};  ///< (tokens, E) out: e in slot e
};

/// Arguments of `route_positive`.
template <Scalar T>
struct RoutePositiveArgs {
  View<T const, 2> logits{};  ///< (tokens, E)
  View<int, 2> experts{};     ///< (tokens, E) out: e in slot e where the logit is positive, else -1
};

namespace detail {

struct AllRule {
  RouteAllArgs a;
  BLACKMAMBA_HOST_DEVICE void operator()(Index i) const { fill_experts(a.experts, i); }
};

template <Scalar T>
struct PositiveRule {
  RoutePositiveArgs<T> a;
  BLACKMAMBA_HOST_DEVICE void operator()(Index i) const {
    for (Index e = 0; e < a.logits.extent(1); ++e)
      a.experts(i, e) = widen(a.logits(i, e)) > accumulator_t<T>(0) ? static_cast<int>(e) : -1;
  }
  BLACKMAMBA_HOST_DEVICE void refuse(Index i) const { fill_row(a.experts, i, -1); }
};

}  // namespace detail

template <std::derived_from<Reference> Ctx>
void route_all_on(Ctx const& ctx, RouteAllArgs const& a) {
  detail::for_each_token(ctx, a.experts.extent(0), a.experts.extent(1), detail::AllRule{a});
}

template <std::derived_from<Reference> Ctx, Scalar T>
void route_positive_on(Ctx const& ctx, RoutePositiveArgs<T> const& a) {
  detail::check_no_nan("route_positive", a.logits);
  detail::for_each_token(ctx, a.logits.extent(0), a.logits.extent(1), detail::PositiveRule<T>{a});
}

namespace detail {

struct route_all_fn {
  template <class Ctx>
  void operator()(Ctx const& ctx, RouteAllArgs const& a) const {
    ProfileRange const range{"route_all"};
    route_all_on(ctx, a);
  }
};

struct route_positive_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, RoutePositiveArgs<T> const& a) const {
    check_shape("route_positive", "experts", a.experts, a.logits.shape(), "logits");
    ProfileRange const range{"route_positive"};
    route_positive_on(ctx, a);
  }
};

}  // namespace detail

/// Each token to every expert: experts_ie = e. Any strides. Does not synchronise, does not throw.
inline constexpr detail::route_all_fn route_all{};

/// Each token to the experts that its logits are positive for: experts_ie = e where x_ie > 0, else -1.
///
/// Shapes: logits, experts (tokens, E), any strides. Compared in accumulator_t<T>. Nothing may alias. Does not synchronise. Throws
/// `shape_error` on extents that disagree, and `value_error` on a NaN (naming token and expert); nothing is written then.
/// Source: Wang et al. 2024, arXiv:2412.14711.
inline constexpr detail::route_positive_fn route_positive{};

}  // namespace blackmamba
