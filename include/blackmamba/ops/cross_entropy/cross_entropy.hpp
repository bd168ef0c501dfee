#pragma once
/// \file
/// The loss of each row of logits against the token that came.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `cross_entropy`.
template <Scalar T>
struct CrossEntropyArgs {
  View<T const, 2> logits{};           ///< (rows, V)
  View<Token const, 1> targets{};      ///< (rows)
  Token ignore_index = -100;           ///< rows with this target have loss 0, and their logits are not read
  View<accumulator_t<T>, 1> losses{};  ///< (rows)
};

namespace detail {

/// Throws for the first target that is neither a token nor ignored.
template <Scalar T>
void check_targets(CrossEntropyArgs<T> const& a) {
  Index const V = a.logits.extent(1);
  for (Index r = 0; r < a.targets.extent(0); ++r)
    check_value(a.targets[r] == a.ignore_index || (a.targets[r] >= 0 && a.targets[r] < V), "cross_entropy", "targets(", r, ") is ",
                a.targets[r], ", and tokens are 0 to ", V - 1, ", or ", a.ignore_index, " to ignore a row");
}

struct cross_entropy_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, CrossEntropyArgs<T> const& a) const {
    Index const rows = a.logits.extent(0);
    check_shape("cross_entropy", "targets", a.targets, Shape{rows}, "logits");
    check_shape("cross_entropy", "losses", a.losses, Shape{rows}, "logits");
    ProfileRange const range{"cross_entropy"};
    cross_entropy_on(ctx, a);
  }
};

}  // namespace detail

/// Negative log-likelihood of the target under softmax(logits), in nats, row by row:
///
///   losses_r = log sum_v e^(logits_rv - max_r) + (max_r - logits_r,target),   max_r = max_v logits_rv
///
/// Both terms are at least 0, so nothing cancels, and the first is a log1p, so a loss near 0 keeps its digits. Shapes: logits
/// (rows, V); targets, losses (rows). Any strides; fast paths want the last dimension of the logits contiguous. Logits are stored
/// in `T`; arithmetic and losses are in accumulator_t<T>. A target whose logit is -inf has loss +inf; a row that holds NaN or +inf,
/// or nothing but -inf, has loss NaN. Does not synchronise. Throws `shape_error` naming the argument that disagrees, and
/// `value_error` with position and value for a target that is neither in 0 … V-1 nor `ignore_index`; no loss is written then.
inline constexpr detail::cross_entropy_fn cross_entropy{};

}  // namespace blackmamba

#include <blackmamba/ops/cross_entropy/cpu.hpp>
#include <blackmamba/ops/cross_entropy/reference.hpp>
