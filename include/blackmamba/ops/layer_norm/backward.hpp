#pragma once
/// \file
/// The backward pass of LayerNorm with the residual add that precedes it.

#include <blackmamba/ops/layer_norm/layer_norm.hpp>

namespace blackmamba {

/// Arguments of `layer_norm_backward`, which do without the bias: no gradient depends on it. `T` is the storage scalar, R =
/// accumulator_t<T> that of the residual stream.
template <Scalar T>
struct LayerNormBackwardArgs {
  View<T const, 2> x{};                        ///< (rows, D) what was normalised, where there was no residual; else not read
  View<T const, 1> weight{};                   ///< (D)
  View<accumulator_t<T> const, 2> residual{};  ///< (rows, D) the stream after x was added, as the forward pass left it
  double epsilon = 1e-5;
  View<T const, 2> d_y{};                  ///< (rows, D)
  View<accumulator_t<T>, 2> d_residual{};  ///< (rows, D), optional, in: what reaches the stream from above; out: its whole gradient
  View<T, 2> d_x{};                        ///< (rows, D), optional: overwritten with the whole gradient, rounded
  View<accumulator_t<T>, 1> d_weight{};    ///< (D), optional: added to
  View<accumulator_t<T>, 1> d_bias{};      ///< (D), optional: added to
};

namespace detail {

struct layer_norm_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, LayerNormBackwardArgs<T> const& a) const {
    constexpr char const* op = "layer_norm_backward";
    check_value(a.x || a.residual, op, "neither x nor residual is given");
    auto const shape = a.residual ? a.residual.shape() : a.x.shape();
    char const* const from = a.residual ? "residual" : "x";
    check_shape(op, "weight", a.weight, Shape<1>{shape[1]}, from);
    check_shape(op, "d_y", a.d_y, shape, from);
    if (a.d_residual) check_shape(op, "d_residual", a.d_residual, shape, from);
    if (a.d_x) check_shape(op, "d_x", a.d_x, shape, from);
    if (a.d_weight) check_shape(op, "d_weight", a.d_weight, Shape<1>{shape[1]}, from);
    if (a.d_bias) check_shape(op, "d_bias", a.d_bias, Shape<1>{shape[1]}, from);
    check_value(a.epsilon >= 0, op, "epsilon is ", a.epsilon, ", not at least 0");
    ProfileRange const range{op};
    layer_norm_backward_on(ctx, a);
  }
};

}  // namespace detail

/// Gradients of `layer_norm`, r ← r + x, y = n · weight + bias with n = s (r - mean(r)) and s = 1 / sqrt(variance(r) + ε), from
/// d_y = ∂loss/∂y, row by row. With g = d_y · weight the gradient of n,
///
///   d_r = s (g - mean(g) - n mean(g n)) + d_r from above ;   d_x = d_r ;
///   d_weight += sum over rows of d_y n ;   d_bias += sum over rows of d_y
///
/// The residual before the add and x have the same gradient, d_r. The forward pass has to keep the stream after the add, or x where
/// there was no residual, and nothing else: s and n are computed again, as the forward pass computes them.
/// Shapes: x, residual, d_y, d_residual, d_x (rows, D); weight, d_weight, d_bias (D). Any row stride; fast paths want the last
/// dimension contiguous. Activations and d_x are stored in `T`; the stream, its gradient, those of the parameters and all
/// arithmetic are accumulator_t<T>. d_x and d_residual are overwritten, d_weight and d_bias are added to, an absent one is not
/// computed. On `Cpu` the sums over rows are cut into pieces that depend on the shapes alone and are added in order, so results are
/// the same bit for bit on any number of threads. `d_x` may be `x` or `d_y`. Does not synchronise. Throws `shape_error` naming the
/// argument that disagrees, `value_error` on a negative ε.
inline constexpr detail::layer_norm_backward_fn layer_norm_backward{};

}  // namespace blackmamba

#include <blackmamba/ops/layer_norm/backward_cpu.hpp>
#include <blackmamba/ops/layer_norm/backward_reference.hpp>
