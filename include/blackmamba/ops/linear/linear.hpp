#pragma once
/// \file
/// The linear map, in the layout in which checkpoints store it: one row of the weight an output.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `linear`.
template <Scalar T>
struct LinearArgs {
  View<T const, 2> x{};       ///< (M, K)
  View<T const, 2> weight{};  ///< (N, K)
  View<T const, 1> bias{};    ///< (N), optional
  View<T, 2> y{};             ///< (M, N)
};

namespace detail {

struct linear_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, LinearArgs<T> const& a) const {
    Index const M = a.x.extent(0), K = a.x.extent(1), N = a.weight.extent(0);
    check_shape("linear", "weight", a.weight, Shape<2>{N, K}, "x");
    if (a.bias) check_shape("linear", "bias", a.bias, Shape<1>{N}, "weight");
    check_shape("linear", "y", a.y, Shape<2>{M, N}, a.y.extent(0) == M ? "weight" : "x");
    ProfileRange const range{"linear"};
    linear_on(ctx, a);
  }
};

}  // namespace detail

/// Linear map with an optional bias:
///
///   y = x Wᵀ + b
///
/// Shapes: x (M, K); weight (N, K); bias (N); y (M, N). Any extent may be 0: without inputs (K = 0) y is the bias, or zero. Any row
/// stride; fast paths want the last dimension of x, weight and y contiguous.
/// Stored in `T`; products and sums in accumulator_t<T>, rounded once. On `Cpu` the result is the same bit for bit on any number
/// of threads, and with up to 16 rows a row's result does not depend on how many others there are.
/// `y` must not alias the inputs. Does not synchronise. Throws `shape_error` naming the argument that disagrees.
inline constexpr detail::linear_fn linear{};

}  // namespace blackmamba

#include <blackmamba/ops/linear/cpu.hpp>
#include <blackmamba/ops/linear/reference.hpp>
