#pragma once
/// \file
/// The loss of each row of logits against the token that came.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/math.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `cross_entropy`.
template <Scalar T>
struct CrossEntropyArgs {
  View<T const, 2> logits{};           ///< (rows, V)
  View<Token const, 1> targets{};      ///< (rows)
  Token ignore_index = -100;           ///< rows with this target have loss 0, and their logits are not read
  double z_coefficient = 0;            ///< of the square of log sum_v e^logits_rv that is added to a row's loss, at least 0
  View<accumulator_t<T>, 1> losses{};  ///< (rows)
};

namespace detail {

/// Throws for the first target that is neither a token nor ignored.
inline void check_targets(char const* op, View<Token const, 1> const& targets, Token ignore_index, Index V) {
  for (Index r = 0; r < targets.extent(0); ++r)
    check_value(targets[r] == ignore_index || (targets[r] >= 0 && targets[r] < V), op, "targets(", r, ") is ", targets[r],
                ", and tokens are 0 to ", V - 1, ", or ", ignore_index, " to ignore a row");
}

/// The loss of a row whose exponentials sum to 1 + rest times that of the maximum.
template <class A>
A row_loss(A max, A rest, A target_logit, A z_coefficient) {
  A const log_sum = log1p(rest), loss = log_sum + (max - target_logit);
  if (z_coefficient == A(0)) return loss;
  A const log_of_all = max + log_sum;
  return loss + z_coefficient * log_of_all * log_of_all;
}

struct cross_entropy_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, CrossEntropyArgs<T> const& a) const {
    Index const rows = a.logits.extent(0);
    check_shape("cross_entropy", "targets", a.targets, Shape{rows}, "logits");
    check_shape("cross_entropy", "losses", a.losses, Shape{rows}, "logits");
    check_value(a.z_coefficient >= 0, "cross_entropy", "z_coefficient is ", a.z_coefficient, ", not at least 0");
    ProfileRange const range{"cross_entropy"};
    cross_entropy_on(ctx, a);
  }
};

}  // namespace detail

/// Negative log-likelihood of the target under softmax(logits), in nats, row by row:
///
///   losses_r = log sum_v e^(logits_rv - max_r) + (max_r - logits_r,target),   max_r = max_v logits_rv
///
/// Both terms are at least 0, so nothing cancels, and the first is a log1p, so a loss near 0 keeps its digits. With a z_coefficient
/// the z-loss is added, z_coefficient · (log sum_v e^logits_rv)², which keeps the logits from drifting to where probabilities do
/// not tell them apart (Chowdhery et al. 2022, arXiv:2204.02311, take 1e-4). Shapes: logits (rows, V); targets, losses (rows). Any
/// strides; fast paths want the last dimension of the logits contiguous. Logits are stored in `T`; arithmetic and losses are in
/// accumulator_t<T>. A target whose logit is -inf has loss +inf; a row that holds NaN or +inf, or nothing but -inf, has loss NaN.
/// Does not synchronise. Throws `shape_error` naming the argument that disagrees, and `value_error` for a negative z_coefficient,
/// or with position and value for a target that is neither in 0 … V-1 nor `ignore_index`; no loss is written then.
inline constexpr detail::cross_entropy_fn cross_entropy{};

}  // namespace blackmamba

#include <blackmamba/ops/cross_entropy/cpu.hpp>
#include <blackmamba/ops/cross_entropy/reference.hpp>
