#pragma once
/// \file
/// One time step of the causal convolution.

#include <blackmamba/ops/causal_conv1d/causal_conv1d.hpp>

namespace blackmamba {

/// Arguments of `causal_conv1d_step`. `T` is the storage scalar.
template <Scalar T>
struct CausalConv1dStepArgs {
  View<T const, 2> x{};       ///< (B, D)
  View<T const, 2> weight{};  ///< (D, K) weight(d, K - 1) meets x
  View<T const, 1> bias{};    ///< (D) absent: 0
  View<T, 3> state{};         ///< (B, K - 1, D) in: the inputs before x, oldest first; out: the same with x as the newest
  bool silu = true;           ///< whether SiLU follows
  View<T, 2> y{};             ///< (B, D)
};

namespace detail {

struct causal_conv1d_step_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, CausalConv1dStepArgs<T> const& a) const {
    constexpr char const* op = "causal_conv1d_step";
    auto const shape = a.x.shape();
    Index const D = shape[1], K = a.weight.extent(1);
    check_shape(op, "weight", a.weight, Shape<2>{D, K}, "x");
    if (K < 1)
      throw shape_error(concat(op, ": weight has shape ", to_string(a.weight.shape()), ", a width of at least 1 is needed"));
    check_shape(op, "y", a.y, shape, "x");
    if (a.bias) check_shape(op, "bias", a.bias, Shape<1>{D}, "x");
    check_shape(op, "state", a.state, Shape<3>{shape[0], K - 1, D}, "x and weight");
    ProfileRange const range{op};
    causal_conv1d_step_on(ctx, a);
  }
};

}  // namespace detail

/// `causal_conv1d` at length 1, with the state shifted in place:
///
///   y = f(bias + Σ_{k<K-1} weight_k state_k + weight_{K-1} x),   f = silu or the identity;   then state ← state_1 … state_{K-2}, x
///
/// Shapes: x, y (B, D); weight (D, K); bias (D); state (B, K - 1, D). Any strides; the fast CPU path wants x, y and the state
/// contiguous in their last dimension.
/// Stored in `T`, summed in accumulator_t<T>, y rounded once. `y` may be the same view as `x`; nothing else may overlap.
/// Does not synchronise. Throws `shape_error` naming the argument that disagrees.
/// Source: Gu & Dao 2023, arXiv:2312.00752, §3.4.
inline constexpr detail::causal_conv1d_step_fn causal_conv1d_step{};

}  // namespace blackmamba

#include <blackmamba/ops/causal_conv1d_step/cpu.hpp>
#include <blackmamba/ops/causal_conv1d_step/reference.hpp>
