#pragma once
/// \file
/// The end of a Mamba block's step as one operation: step sizes from their projection, the decay from its logarithm, the scan.

#include <blackmamba/ops/decay/decay.hpp>
#include <blackmamba/ops/selective_scan_step/selective_scan_step.hpp>

namespace blackmamba {

/// Arguments of `projected_scan_step`. `T` is the storage scalar, Acc = accumulator_t<T> that of the recurrence.
template <Scalar T>
struct ProjectedScanStepArgs {
  using Acc = accumulator_t<T>;
  View<T const, 2> u{};           ///< (B, D) the input
  View<T const, 2> dt{};          ///< (B, R) what the step sizes are projected from
  View<T const, 2> dt_weight{};   ///< (D, R)
  View<T const, 2> A_log{};       ///< (D, N)
  View<T const, 3> B{};           ///< (B, G, N) G groups of D / G channels share a row
  View<T const, 3> C{};           ///< (B, G, N)
  View<T const, 1> D{};           ///< (D) the skip connection; absent: none
  View<T const, 2> z{};           ///< (B, D) the gate; absent: none
  View<T const, 1> delta_bias{};  ///< (D) absent: 0
  bool delta_softplus = false;    ///< whether softplus is applied to the projection + delta_bias
  View<Acc, 3> state{};           ///< (B, D, N) in and out
  View<T, 2> y{};                 ///< (B, D) out
};

namespace detail {

struct projected_scan_step_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, ProjectedScanStepArgs<T> const& a) const {
    constexpr char const* op = "projected_scan_step";
    auto const shape = a.u.shape();
    Index const D = shape[1], R = a.dt.extent(1), N = a.A_log.extent(1), groups = a.B.extent(1);
    check_shape(op, "dt", a.dt, Shape<2>{shape[0], R}, "u");
    check_shape(op, "dt_weight", a.dt_weight, Shape<2>{D, R}, "u and dt");
    check_shape(op, "y", a.y, shape, "u");
    if (a.z) check_shape(op, "z", a.z, shape, "u");
    check_shape(op, "A_log", a.A_log, Shape<2>{D, N}, "u");
    check_groups(op, groups, D);
    check_shape(op, "B", a.B, Shape<3>{shape[0], groups, N}, "u and A_log");
    check_shape(op, "C", a.C, a.B.shape(), "B");
    if (a.D) check_shape(op, "D", a.D, Shape<1>{D}, "u");
    if (a.delta_bias) check_shape(op, "delta_bias", a.delta_bias, Shape<1>{D}, "u");
    check_shape(op, "state", a.state, Shape<3>{shape[0], D, N}, "u and A_log");
    ProfileRange const range{op};
    projected_scan_step_on(ctx, a);
  }
};

}  // namespace detail

/// `linear`, `decay` and `selective_scan_step` after each other, nothing rounded between them, with the state updated in place:
///
///   δ = dt · dt_weight + delta_bias, through softplus if asked ;   A = -exp(A_log)
///   state ← exp(δ A) state + δ B u ;   y = (C · state + D u) silu(z)
///
/// Shapes: u, z, y (B, D); dt (B, R); dt_weight (D, R); A_log (D, N); B, C (B, G, N); D, delta_bias (D); state (B, D, N). Any
/// strides; fast paths want the last dimension of each contiguous. Stored in `T`; the projection, A, the state and all arithmetic
/// in accumulator_t<T>, y rounded once. No aliasing. Does not synchronise. Throws `shape_error` naming the argument that disagrees.
/// Source: Gu & Dao 2023, arXiv:2312.00752, algorithm 2 and section 3.6.
inline constexpr detail::projected_scan_step_fn projected_scan_step{};

}  // namespace blackmamba

#include <blackmamba/ops/projected_scan_step/cpu.hpp>
#include <blackmamba/ops/projected_scan_step/reference.hpp>
