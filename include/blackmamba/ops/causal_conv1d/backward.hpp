#pragma once
/// \file
/// The gradient of the causal convolution in everything that it reads.

#include <blackmamba/ops/causal_conv1d/causal_conv1d.hpp>

namespace blackmamba {

/// Arguments of `causal_conv1d_backward`: what the forward pass read, the gradients of what it wrote, and where those of its inputs
/// go. An absent gradient is not computed.
template <Scalar T>
struct CausalConv1dBackwardArgs {
  using Acc = accumulator_t<T>;
  View<T const, 3> x{};              ///< (B, L, D)
  View<T const, 2> weight{};         ///< (D, K)
  View<T const, 1> bias{};           ///< (D) absent: 0
  View<Index const, 1> offsets{};    ///< (S + 1) as in the forward pass
  View<T const, 3> initial_state{};  ///< (B or S, K - 1, D) absent: 0
  bool silu = true;                  ///< as in the forward pass

  View<T const, 3> d_y{};             ///< (B, L, D)
  View<Acc const, 3> d_last_state{};  ///< (B or S, K - 1, D) absent: 0

  View<T, 3> d_x{};                ///< (B, L, D) overwritten
  View<Acc, 2> d_weight{};         ///< (D, K) added to
  View<Acc, 1> d_bias{};           ///< (D) added to
  View<Acc, 3> d_initial_state{};  ///< (B or S, K - 1, D) overwritten
};

namespace detail {

struct causal_conv1d_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, CausalConv1dBackwardArgs<T> const& a) const {
    constexpr char const* op = "causal_conv1d_backward";
    auto const shape = a.x.shape();
    Index const D = shape[2], K = a.weight.extent(1);
    check_shape(op, "weight", a.weight, Shape<2>{D, K}, "x");
    if (K < 1)
      throw shape_error(concat(op, ": weight has shape ", to_string(a.weight.shape()), ", a width of at least 1 is needed"));
    if (a.bias) check_shape(op, "bias", a.bias, Shape<1>{D}, "x");
    check_shape(op, "d_y", a.d_y, shape, "x");
    Shape<3> const state{sequence_count(op, a.offsets, shape[0]), K - 1, D};
    if (a.initial_state) check_shape(op, "initial_state", a.initial_state, state, "x and weight");
    if (a.d_last_state) check_shape(op, "d_last_state", a.d_last_state, state, "x and weight");

    check_value(!a.d_bias || a.bias, op, "d_bias is asked for, and bias is absent");
    if (a.d_x) check_shape(op, "d_x", a.d_x, shape, "x");
    if (a.d_weight) check_shape(op, "d_weight", a.d_weight, a.weight.shape(), "weight");
    if (a.d_bias) check_shape(op, "d_bias", a.d_bias, a.bias.shape(), "bias");
    if (a.d_initial_state) check_shape(op, "d_initial_state", a.d_initial_state, state, "x and weight");
    ProfileRange const range{op};
    causal_conv1d_backward_on(ctx, a);
  }
};

}  // namespace detail

/// Gradients of `causal_conv1d`, whose formulas and shapes these follow. With s_t the sum before SiLU, which is recomputed, and σ
/// the logistic function:
///
///   g_t = dy_t σ(s_t) (1 + s_t (1 - σ(s_t))), or dy_t without SiLU
///   dx_i = Σ_k weight_k g_{i+K-1-k} over the times of the sequence ;   dweight_k = Σ_t g_t x_{t-K+1+k} ;   dbias = Σ_t g_t
///
/// where the inputs before the first are those of the initial state, whose gradients are sums of the same kind. The last state is a
/// copy of inputs, so d_last_state is added to the gradients of those it copies.
/// d_x is stored in `T`, rounded once, and overwritten; d_weight and d_bias are accumulator_t<T> and added to; the states'
/// gradients are accumulator_t<T>, and d_initial_state is overwritten. An absent one is not computed; d_initial_state may be asked
/// for where the initial state was absent and so 0. Any strides; the fast CPU path wants x, d_y, d_x, the bias and the states
/// contiguous in their last dimension. No aliasing. Results do not depend on the number of threads. Does not synchronise. Throws
/// `shape_error` naming the argument that disagrees; `value_error` when d_bias is asked for without a bias, and on offsets that do
/// not ascend from 0 to L. Source: Gu & Dao 2023, arXiv:2312.00752, §3.4.
inline constexpr detail::causal_conv1d_backward_fn causal_conv1d_backward{};

}  // namespace blackmamba

#include <blackmamba/ops/causal_conv1d/backward_cpu.hpp>
#include <blackmamba/ops/causal_conv1d/backward_reference.hpp>
