#pragma once
/// \file
/// A few numbers added to others, where the context computes.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `accumulate`. `A` is the accumulator scalar.
template <Scalar A>
struct AccumulateArgs {
  View<A const, 1> x{};  ///< (n)
  double scale = 1;
  View<A, 1> y{};  ///< (n) added to
};

namespace detail {

struct accumulate_fn {
  template <class Ctx, Scalar A>
  requires std::same_as<A, accumulator_t<A>>
  void operator()(Ctx const& ctx, AccumulateArgs<A> const& a) const {
    check_shape("accumulate", "y", a.y, a.x.shape(), "x");
    ProfileRange const range{"accumulate"};
    accumulate_on(ctx, a);
  }
};

}  // namespace detail

/// y_i += scale · x_i
///
/// Shapes: x, y (n), any strides. In `A`. `y` may be `x`. Does not synchronise. Throws `shape_error` on extents that disagree.
inline constexpr detail::accumulate_fn accumulate{};

/// One after the other.
template <Scalar A>
void accumulate_on(Reference const&, AccumulateArgs<A> const& a) {
  for (Index i = 0; i < a.y.extent(0); ++i) a.y[i] += A(a.scale) * a.x[i];
}

}  // namespace blackmamba
