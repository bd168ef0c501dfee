#pragma once
/// \file
/// One time step of the selective scan: what a Mamba block does for each generated token.

#include <blackmamba/ops/selective_scan/selective_scan.hpp>

namespace blackmamba {

/// Arguments of `selective_scan_step`. `T` is the storage scalar, Acc = accumulator_t<T> that of the recurrence.
template <Scalar T>
struct SelectiveScanStepArgs {
  using Acc = accumulator_t<T>;
  View<T const, 2> u{};           ///< (B, D) the input
  View<T const, 2> delta{};       ///< (B, D) the step sizes, before bias and softplus
  View<Acc const, 2> A{};         ///< (D, N)
  View<T const, 3> B{};           ///< (B, G, N) G groups of D / G channels share a row
  View<T const, 3> C{};           ///< (B, G, N)
  View<T const, 1> D{};           ///< (D) the skip connection; absent: none
  View<T const, 2> z{};           ///< (B, D) the gate; absent: none
  View<T const, 1> delta_bias{};  ///< (D) absent: 0
  bool delta_softplus = false;    ///< whether softplus is applied to delta + delta_bias
  View<Acc, 3> state{};           ///< (B, D, N) in and out
  View<T, 2> y{};                 ///< (B, D) out
};

namespace detail {

struct selective_scan_step_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, SelectiveScanStepArgs<T> const& a) const {
    constexpr char const* op = "selective_scan_step";
    auto const shape = a.u.shape();
    Index const D = shape[1], N = a.A.extent(1), groups = a.B.extent(1);
    check_shape(op, "delta", a.delta, shape, "u");
    check_shape(op, "y", a.y, shape, "u");
    if (a.z) check_shape(op, "z", a.z, shape, "u");
    check_shape(op, "A", a.A, Shape<2>{D, N}, "u");
    check_groups(op, groups, D);
    check_shape(op, "B", a.B, Shape<3>{shape[0], groups, N}, "u and A");
    check_shape(op, "C", a.C, a.B.shape(), "B");
    if (a.D) check_shape(op, "D", a.D, Shape<1>{D}, "u");
    if (a.delta_bias) check_shape(op, "delta_bias", a.delta_bias, Shape<1>{D}, "u");
    check_shape(op, "state", a.state, Shape<3>{shape[0], D, N}, "u and A");
    ProfileRange const range{op};
    selective_scan_step_on(ctx, a);
  }
};

}  // namespace detail

/// `selective_scan` at length 1, with the state updated in place:
///
///   δ = delta + delta_bias, through softplus if asked
///   state ← exp(δ A) state + δ B u ;   y = (C · state + D u) silu(z)
///
/// Shapes: u, delta, z, y (B, D); A (D, N); B, C (B, G, N); D, delta_bias (D); state (B, D, N). Any strides; the fast CPU path
/// wants the last dimension of each contiguous.
/// Stored in `T`; A, the state and all arithmetic in accumulator_t<T>, y rounded once.
/// `y` may be the same view as `u`, `delta` or `z`; nothing else may overlap. Does not synchronise.
/// Throws `shape_error` naming the argument that disagrees. L steps equal one scan of length L, up to rounding.
/// Source: Gu & Dao 2023, arXiv:2312.00752, §3.5.4.
inline constexpr detail::selective_scan_step_fn selective_scan_step{};

}  // namespace blackmamba

#include <blackmamba/ops/selective_scan_step/cpu.hpp>
#include <blackmamba/ops/selective_scan_step/reference.hpp>
