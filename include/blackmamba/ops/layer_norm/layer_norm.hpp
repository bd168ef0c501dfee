#pragma once
/// \file
/// LayerNorm with the residual add that precedes it in every block of the network.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `layer_norm`. `T` is the storage scalar, R = accumulator_t<T> that of the residual stream.
template <Scalar T>
struct LayerNormArgs {
  View<T const, 2> x{};                  ///< (rows, D) what the previous block put out; absent: the residual is normalised as it is
  View<T const, 1> weight{};             ///< (D)
  View<T const, 1> bias{};               ///< (D), optional
  View<accumulator_t<T>, 2> residual{};  ///< (rows, D) in: the stream; out: the stream + x. Absent: x is normalised as it is
  View<T, 2> y{};                        ///< (rows, D)
  double epsilon = 1e-5;
};

namespace detail {

struct layer_norm_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, LayerNormArgs<T> const& a) const {
    check_value(a.x || a.residual, "layer_norm", "neither x nor residual is given");
    auto const shape = a.x ? a.x.shape() : a.residual.shape();
    char const* const from = a.x ? "x" : "residual";
    if (a.residual) check_shape("layer_norm", "residual", a.residual, shape, from);
    check_shape("layer_norm", "y", a.y, shape, from);
    check_shape("layer_norm", "weight", a.weight, Shape<1>{shape[1]}, from);
    if (a.bias) check_shape("layer_norm", "bias", a.bias, Shape<1>{shape[1]}, from);
    check_value(a.epsilon >= 0, "layer_norm", "epsilon is ", a.epsilon, ", not at least 0");
    ProfileRange const range{"layer_norm"};
    layer_norm_on(ctx, a);
  }
};

}  // namespace detail

/// Residual add and normalisation to mean 0 and variance 1, row by row:
///
///   r ← r + x ;   μ = mean(r) ;   y = (r - μ) / sqrt(mean((r - μ)²) + ε) · weight + bias
///
/// Shapes: x, residual, y (rows, D); weight, bias (D). Any row stride; fast paths want the last dimension contiguous.
/// Stored in `T`; the stream and all arithmetic in accumulator_t<T>, so half-precision networks keep a float32 residual. Mean
/// and variance are corrected in a second pass, so that a mean far from 0 costs no digits.
/// `y` may alias `x`. Does not synchronise. Throws `shape_error` naming the argument that disagrees, `value_error` on a negative ε.
/// Source: Ba, Kiros & Hinton 2016, arXiv:1607.06450; Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance".
inline constexpr detail::layer_norm_fn layer_norm{};

}  // namespace blackmamba

#include <blackmamba/ops/layer_norm/cpu.hpp>
#include <blackmamba/ops/layer_norm/reference.hpp>
