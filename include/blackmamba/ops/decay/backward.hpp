#pragma once
/// \file
/// The gradient of the decay matrix in its logarithm.

#include <blackmamba/ops/decay/decay.hpp>

namespace blackmamba {

/// Arguments of `decay_backward`.
template <Scalar T>
struct DecayBackwardArgs {
  using Acc = accumulator_t<T>;
  View<T const, 2> A_log{};  ///< (D, N) what the forward pass read

  View<Acc const, 2> d_A{};  ///< (D, N)

  View<Acc, 2> d_A_log{};  ///< (D, N) added to; absent: not computed
};

namespace detail {

struct decay_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, DecayBackwardArgs<T> const& args) const {
    constexpr char const* op = "decay_backward";
    check_shape(op, "d_A", args.d_A, args.A_log.shape(), "A_log");
    if (!args.d_A_log) return;
    check_shape(op, "d_A_log", args.d_A_log, args.A_log.shape(), "A_log");
    ProfileRange const range{op};
    decay_backward_on(ctx, args);
  }
};

}  // namespace detail

/// The gradient of `decay`: dA_log += dA A, where A = -exp(A_log) is recomputed.
///
/// Shapes: all (D, N), any strides. `A_log` is stored in `T`, the gradients in accumulator_t<T>. d_A_log is a parameter's gradient
/// and added to. No aliasing. Does not synchronise. Throws `shape_error`. Source: Gu & Dao 2023, arXiv:2312.00752, section 3.6.
inline constexpr detail::decay_backward_fn decay_backward{};

/// Plain loops.
template <Scalar T>
void decay_backward_on(Reference const&, DecayBackwardArgs<T> const& args) {
  for (Index d = 0; d < args.d_A.extent(0); ++d)
    for (Index n = 0; n < args.d_A.extent(1); ++n) args.d_A_log(d, n) -= args.d_A(d, n) * exp(widen(args.A_log(d, n)));
}

}  // namespace blackmamba
