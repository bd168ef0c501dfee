#pragma once
/// \file
/// The depthwise causal convolution of a Mamba block.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/sequences.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `causal_conv1d`. `T` is the storage scalar.
template <Scalar T>
struct CausalConv1dArgs {
  View<T const, 3> x{};              ///< (B, L, D)
  View<T const, 2> weight{};         ///< (D, K) weight(d, K - 1) meets the newest input
  View<T const, 1> bias{};           ///< (D) absent: 0
  View<Index const, 1> offsets{};    ///< (S + 1) S sequences packed along L, B = 1: sequence s is [offsets[s], offsets[s + 1])
  View<T const, 3> initial_state{};  ///< (B or S, K - 1, D) the inputs before the first, oldest first; absent: 0
  View<T, 3> last_state{};           ///< (B or S, K - 1, D) out: the last K - 1 inputs; may be absent
  bool silu = true;                  ///< whether SiLU follows
  View<T, 3> y{};                    ///< (B, L, D)
};

namespace detail {

struct causal_conv1d_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, CausalConv1dArgs<T> const& a) const {
    constexpr char const* op = "causal_conv1d";
    auto const shape = a.x.shape();
    Index const D = shape[2], K = a.weight.extent(1);
    check_shape(op, "weight", a.weight, Shape<2>{D, K}, "x");
    if (K < 1)
      throw shape_error(concat(op, ": weight has shape ", to_string(a.weight.shape()), ", a width of at least 1 is needed"));
    check_shape(op, "y", a.y, shape, "x");
    if (a.bias) check_shape(op, "bias", a.bias, Shape<1>{D}, "x");
    Shape<3> const state{sequence_count(op, a.offsets, shape[0]), K - 1, D};
    if (a.initial_state) check_shape(op, "initial_state", a.initial_state, state, "x and weight");
    if (a.last_state) check_shape(op, "last_state", a.last_state, state, "x and weight");
    ProfileRange const range{op};
    causal_conv1d_on(ctx, a);
  }
};

}  // namespace detail

/// Each channel convolved with its own K weights, looking back only:
///
///   y_t = f(bias + Σ_k weight_k x_{t-K+1+k}),   k = 0 … K - 1,   f = silu or the identity
///
/// Inputs before the first are those of `initial_state`, or 0; the last K - 1 are left in `last_state`, so a sequence may be cut
/// anywhere and continued. A sequence of length 0 leaves the state as it was.
/// Shapes: x, y (B, L, D); weight (D, K); bias (D); states (B, K - 1, D), or (S, K - 1, D) where `offsets` packs S sequences, empty
/// ones included, into a batch of 1. Any strides; the fast CPU path wants x, y and the states contiguous in their last dimension.
/// Stored in `T`, summed in accumulator_t<T>, y rounded once.
/// `last_state` may be the same view as `initial_state`; nothing else may overlap, so `y` must not be `x`. Does not synchronise.
/// Throws `shape_error` naming the argument that disagrees, `value_error` on offsets that do not ascend from 0 to L.
/// Source: Gu & Dao 2023, arXiv:2312.00752, §3.4.
inline constexpr detail::causal_conv1d_fn causal_conv1d{};

}  // namespace blackmamba

#include <blackmamba/ops/causal_conv1d/cpu.hpp>
#include <blackmamba/ops/causal_conv1d/reference.hpp>
