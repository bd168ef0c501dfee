#pragma once
/// \file
/// The backward pass of RMSNorm with the residual add that precedes it.

#include <blackmamba/ops/rms_norm/rms_norm.hpp>

namespace blackmamba {

/// Arguments of `rms_norm_backward`. `T` is the storage scalar, R = accumulator_t<T> that of the residual stream.
template <Scalar T>
struct RmsNormBackwardArgs {
  View<T const, 2> x{};                        ///< (rows, D) what was normalised, where there was no residual; else not read
  View<T const, 1> weight{};                   ///< (D)
  View<accumulator_t<T> const, 2> residual{};  ///< (rows, D) the stream after x was added, as the forward pass left it
  double epsilon = 1e-5;
  View<T const, 2> d_y{};                  ///< (rows, D)
  View<accumulator_t<T>, 2> d_residual{};  ///< (rows, D), optional, in: what reaches the stream from above; out: its whole gradient
  View<T, 2> d_x{};                        ///< (rows, D), optional: overwritten with the whole gradient, rounded
  View<accumulator_t<T>, 1> d_weight{};    ///< (D), optional: added to
};

namespace detail {

struct rms_norm_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, RmsNormBackwardArgs<T> const& a) const {
    constexpr char const* op = "rms_norm_backward";
    check_value(a.x || a.residual, op, "neither x nor residual is given");
    auto const shape = a.residual ? a.residual.shape() : a.x.shape();
    char const* const from = a.residual ? "residual" : "x";
    check_shape(op, "weight", a.weight, Shape<1>{shape[1]}, from);
    check_shape(op, "d_y", a.d_y, shape, from);
    if (a.d_residual) check_shape(op, "d_residual", a.d_residual, shape, from);
    if (a.d_x) check_shape(op, "d_x", a.d_x, shape, from);
    if (a.d_weight) check_shape(op, "d_weight", a.d_weight, Shape<1>{shape[1]}, from);
    check_value(a.epsilon >= 0, op, "epsilon is ", a.epsilon, ", not at least 0");
    ProfileRange const range{op};
    rms_norm_backward_on(ctx, a);
  }
};

}  // namespace detail

/// Gradients of `rms_norm`, r ← r + x, y = n · weight with n = s r and s = 1 / sqrt(mean(r²) + ε), from d_y = ∂loss/∂y, row by row.
/// With g = d_y · weight the gradient of n,
///
///   d_r = s (g - n mean(g n)) + d_r from above ;   d_x = d_r ;   d_weight += sum over rows of d_y n
///
/// The residual before the add and x have the same gradient, d_r. The forward pass has to keep the stream after the add, or x where
/// there was no residual, and nothing else: s and n are computed again.
/// Shapes: x, residual, d_y, d_residual, d_x (rows, D); weight, d_weight (D). Any row stride; fast paths want the last dimension
/// contiguous. Activations and d_x are stored in `T`; the stream, its gradient, d_weight and all arithmetic are accumulator_t<T>.
/// d_x and d_residual are overwritten, d_weight is added to, an absent one is not computed. On `Cpu` the sum over rows is cut into
/// pieces that depend on the shapes alone and are added in order, so results are the same bit for bit on any number of threads.
/// `d_x` may be `x` or `d_y`. Does not synchronise. Throws `shape_error` naming the argument that disagrees, `value_error` on a
/// negative ε.
inline constexpr detail::rms_norm_backward_fn rms_norm_backward{};

}  // namespace blackmamba

#include <blackmamba/ops/rms_norm/backward_cpu.hpp>
#include <blackmamba/ops/rms_norm/backward_reference.hpp>
