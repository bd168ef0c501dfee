#pragma once
/// \file
/// The backward pass of cross-entropy.

#include <blackmamba/ops/cross_entropy/cross_entropy.hpp>

namespace blackmamba {

/// Arguments of `cross_entropy_backward`.
template <Scalar T>
struct CrossEntropyBackwardArgs {
  View<T const, 2> logits{};       ///< (rows, V)
  View<Token const, 1> targets{};  ///< (rows)
  Token ignore_index = -100;       ///< rows with this target have gradient 0, and their logits are not read
  double z_coefficient = 0;        ///< as in the forward pass
  double scale = 1;                ///< what every row's loss is multiplied by: 1 / (number of valid targets) for their mean
  View<T, 2> d_logits{};           ///< (rows, V), overwritten
};

namespace detail {

struct cross_entropy_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, CrossEntropyBackwardArgs<T> const& a) const {
    constexpr char const* op = "cross_entropy_backward";
    check_shape(op, "targets", a.targets, Shape{a.logits.extent(0)}, "logits");
    check_shape(op, "d_logits", a.d_logits, a.logits.shape(), "logits");
    check_value(a.z_coefficient >= 0, op, "z_coefficient is ", a.z_coefficient, ", not at least 0");
    ProfileRange const range{op};
    cross_entropy_backward_on(ctx, a);
  }
};

/// What the gradient of a row is made of: e^(logit_v - max) · factor, and apart from it the element at the target, where p - 1
/// would keep few digits if nearly all of the probability lies there. The target is the maximum then, and p - 1 = -rest / (1 +
/// rest).
template <class A>
struct CrossEntropyGradient {
  A factor, at_target;
  CrossEntropyGradient(A max, A rest, A target_logit, A scale, A z_coefficient) {
    A const sum = A(1) + rest;
    A const twice_z = z_coefficient == A(0) ? A(0) : A(2) * z_coefficient * (max + log1p(rest));
    A const p = exp(target_logit - max) / sum;
    A const p_minus_one = target_logit < max ? p - A(1) : -rest / sum;
    factor = scale * (A(1) + twice_z) / sum;
    at_target = scale * (p_minus_one + twice_z * p);
  }
};

}  // namespace detail

/// Gradient of scale · sum of the losses of `cross_entropy`, row by row, with p = softmax(logits_r) and lse = log sum_v
/// e^logits_rv:
///
///   d_logits_rv = scale · (p_v (1 + 2 z_coefficient lse) - [v = target_r])
///
/// The last term comes from the loss lse - logits_r,target, and the second in brackets from z_coefficient · lse². At a target that
/// has nearly all of the probability p - 1 is computed as minus the sum of the others, so a small gradient keeps its digits.
/// Shapes: logits, d_logits (rows, V); targets (rows). Any strides; fast paths want the last dimension of logits and d_logits
/// contiguous. Stored in `T`, computed in accumulator_t<T>, rounded once. Ignored rows become 0; a row that holds NaN or +inf, or
/// nothing but -inf, becomes NaN. `d_logits` may be `logits`. Does not synchronise. Throws `shape_error` naming the argument that
/// disagrees, and `value_error` for a negative z_coefficient, or with position and value for a target that is neither in 0 … V-1
/// nor `ignore_index`; nothing is written then.
inline constexpr detail::cross_entropy_backward_fn cross_entropy_backward{};

}  // namespace blackmamba

#include <blackmamba/ops/cross_entropy/backward_cpu.hpp>
#include <blackmamba/ops/cross_entropy/backward_reference.hpp>
