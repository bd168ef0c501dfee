#pragma once
/// \file
/// The backward pass of the linear map.

#include <blackmamba/ops/linear/linear.hpp>

namespace blackmamba {

/// Arguments of `linear_backward`.
template <Scalar T>
struct LinearBackwardArgs {
  View<T const, 2> x{};                  ///< (M, K)
  View<T const, 2> weight{};             ///< (N, K)
  View<T const, 2> d_y{};                ///< (M, N)
  View<T, 2> d_x{};                      ///< (M, K), optional: overwritten, or added to with `add_to_d_x`
  View<accumulator_t<T>, 2> d_weight{};  ///< (N, K), optional: added to
  View<accumulator_t<T>, 1> d_bias{};    ///< (N), optional: added to
  bool add_to_d_x = false;               ///< where x goes elsewhere too, and d_x has what came from there
};

namespace detail {

struct linear_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, LinearBackwardArgs<T> const& a) const {
    Index const M = a.x.extent(0), K = a.x.extent(1), N = a.weight.extent(0);
    check_shape("linear_backward", "weight", a.weight, Shape<2>{N, K}, "x");
    check_shape("linear_backward", "d_y", a.d_y, Shape<2>{M, N}, a.d_y.extent(0) == M ? "weight" : "x");
    if (a.d_x) check_shape("linear_backward", "d_x", a.d_x, Shape<2>{M, K}, "x");
    if (a.d_weight) check_shape("linear_backward", "d_weight", a.d_weight, Shape<2>{N, K}, "weight");
    if (a.d_bias) check_shape("linear_backward", "d_bias", a.d_bias, Shape<1>{N}, "weight");
    ProfileRange const range{"linear_backward"};
    linear_backward_on(ctx, a);
  }
};

}  // namespace detail

/// Gradients of `linear`, y = x Wᵀ + b, from d_y = ∂loss/∂y:
///
///   d_x = d_y W, or d_x += d_y W with `add_to_d_x` ;   d_weight += d_yᵀ x ;   d_bias += sum_m d_y_m
///
/// Shapes: x, d_x (M, K); weight, d_weight (N, K); d_y (M, N); d_bias (N). Any extent may be 0. Any row stride; fast paths want the
/// last dimension of all matrices contiguous. The gradient of the input is stored in `T` and overwritten, or added to: on a CPU
/// sum and old value are rounded once, together; on a GPU half and bf16 may be rounded before too. Those of the parameters are
/// accumulator_t<T> and added to. An absent one is not computed, and each optional one costs nothing else. Products and sums are in
/// accumulator_t<T>. On `Cpu` sums over M are cut into pieces that depend on the shapes alone and are added in order, so results
/// are the same bit for bit on any number of threads. `d_x` may be `x`, which is used up first (and not added to); nothing else may
/// alias. Does not synchronise. Throws `shape_error` naming the argument that disagrees.
inline constexpr detail::linear_backward_fn linear_backward{};

}  // namespace blackmamba

#include <blackmamba/ops/linear/backward_cpu.hpp>
#include <blackmamba/ops/linear/backward_reference.hpp>
