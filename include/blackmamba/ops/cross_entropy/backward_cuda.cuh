#pragma once
/// \file
/// The backward pass of cross-entropy on a GPU.

#include <blackmamba/ops/cross_entropy/backward.hpp>
#include <blackmamba/ops/cross_entropy/cuda.cuh>

namespace blackmamba {

namespace detail {

inline constexpr FaultKind backward_target_outside{"cross_entropy_backward", "targets(", ") is ",
                                                   ", which is neither a token nor ignored"};

/// See RowUse for what a task is, and CrossEntropyGradient for the arithmetic.
template <class T>
struct CrossEntropyBackwardTask {
  using A = accumulator_t<T>;
  static constexpr bool writes = true;
  static constexpr int ahead = 2;
  struct Row {
    ExpBelow<T> exp_below;
    Token target;
    A target_logit, factor, at_target, fill;
  };

  Strided<T const> x;
  Strided<T> y;
  View<Token const, 1> targets;
  Index rows, D;
  Token ignore_index;
  A z_coefficient, scale;
  FaultSlot* fault;

  __device__ RowUse begin(Index row, int lane, Row& a) const {
    auto const target = row_target<T>(x, &targets[row], row, D, ignore_index, lane);
    a.target = target.token, a.target_logit = target.logit;
    if (target.token == ignore_index) return RowUse::fill;
    if (target.token >= 0 && target.token < D) return RowUse::read;
    a.fill = static_cast<A>(__int_as_float(0x7fffffff));
    if (lane == 0) report_fault(fault, row, target.token);
    return RowUse::fill;
  }
  __device__ void finish(Index, A max, A rest, bool, Row& a) const {
    A const sum = 1 + rest, p = device_exp(a.target_logit - max) / sum;
    A const twice_z = z_coefficient == A(0) ? A(0) : 2 * z_coefficient * (max + ::log1p(rest));
    A const p_minus_one = a.target_logit < max ? p - 1 : -rest / sum;
    a.exp_below = ExpBelow<T>{max};
    a.factor = scale * (1 + twice_z) / sum;
    a.at_target = scale * (p_minus_one + twice_z * p);
  }
  __device__ A of(A x, Row const& a) const { return a.exp_below(x) * a.factor; }
  template <int V>
  __device__ void correct(Index column, Lanes<T, V>& y, Row const& a) const {
    if (a.target < column || a.target >= column + V) return;
#pragma unroll
    for (int k = 0; k < V; ++k)
      if (column + k == a.target) y.of[k] = device_round<T>(a.at_target);
  }
};

}  // namespace detail

/// Fast where rows are contiguous. A target that is neither a token nor ignored makes the next wait for the context throw, and its
/// row NaN; the others are as they should be. Two runs give the same bits.
template <Scalar T>
void cross_entropy_backward_on(Cuda const& ctx, CrossEntropyBackwardArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  if (a.logits.extent(0) == 0) return;
  detail::run_rows<T>(
      ctx, "cross_entropy_backward",
      detail::CrossEntropyBackwardTask<T>{detail::strided(a.logits), detail::strided(a.d_logits), a.targets, a.logits.extent(0),
                                          a.logits.extent(1), a.ignore_index, static_cast<Acc>(a.z_coefficient),
                                          static_cast<Acc>(a.scale), ctx.fault(detail::backward_target_outside)});
}

}  // namespace blackmamba
