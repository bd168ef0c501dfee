#pragma once
/// \file
/// RMSNorm with the residual add that precedes it in every block of the network.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `rms_norm`. `T` is the storage scalar, R = accumulator_t<T> that of the residual stream.
template <Scalar T>
struct RmsNormArgs {
  View<T const, 2> x{};                  ///< (rows, D) what the previous block put out; absent: the residual is normalised as it is
  View<T const, 1> weight{};             ///< (D)
  View<accumulator_t<T>, 2> residual{};  ///< (rows, D) in: the stream; out: the stream + x. Absent: x is normalised as it is
  View<T, 2> y{};                        ///< (rows, D)
  double epsilon = 1e-5;
};

namespace detail {

struct rms_norm_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, RmsNormArgs<T> const& a) const {
    check_value(a.x || a.residual, "rms_norm", "neither x nor residual is given");
    auto const shape = a.x ? a.x.shape() : a.residual.shape();
    if (a.residual) check_shape("rms_norm", "residual", a.residual, shape, "x");
    check_shape("rms_norm", "y", a.y, shape, "x");
    check_shape("rms_norm", "weight", a.weight, Shape<1>{shape[1]}, "x");
    check_value(a.epsilon >= 0, "rms_norm", "epsilon is ", a.epsilon, ", not at least 0");
    ProfileRange const range{"rms_norm"};
    rms_norm_on(ctx, a);
  }
};

}  // namespace detail

/// Residual add and root-mean-square normalisation, row by row:
///
///   r ← r + x ;   y = r / sqrt(mean(r²) + ε) · weight
///
/// Shapes: x, residual, y (rows, D); weight (D). Any row stride; fast paths want the last dimension contiguous.
/// Stored in `T`; the stream and all arithmetic in accumulator_t<T>, so half-precision networks keep a float32 residual.
/// `y` may alias `x`. Does not synchronise. Throws `shape_error` naming the argument that disagrees, `value_error` on a negative ε.
/// Source: Zhang & Sennrich 2019, arXiv:1910.07467.
inline constexpr detail::rms_norm_fn rms_norm{};

}  // namespace blackmamba

#include <blackmamba/ops/rms_norm/cpu.hpp>
#include <blackmamba/ops/rms_norm/reference.hpp>
