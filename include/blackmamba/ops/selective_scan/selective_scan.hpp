#pragma once
/// \file
/// The selective scan: the recurrence of a Mamba block over whole sequences.

#include <cmath>

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/sequences.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Steps from one kept state of a scan over L steps to the next, and how many there are. With about sqrt(2 L) of them, the memory
/// of the kept states and that of a backward pass for the two states of every step between two of them add up to the least.
inline Index scan_chunk(Index length) { return 1 + static_cast<Index>(std::sqrt(static_cast<double>(length) / 2)); }
inline Index scan_chunks(Index length) { return ceil_div(length, scan_chunk(length)); }

/// Arguments of `selective_scan`. `T` is the storage scalar, Acc = accumulator_t<T> that of the recurrence.
template <Scalar T>
struct SelectiveScanArgs {
  using Acc = accumulator_t<T>;
  View<T const, 3> u{};                ///< (B, L, D) the input
  View<T const, 3> delta{};            ///< (B, L, D) the step sizes, before bias and softplus
  View<Acc const, 2> A{};              ///< (D, N)
  View<T const, 4> B{};                ///< (B, L, G, N) G groups of D / G channels share a row
  View<T const, 4> C{};                ///< (B, L, G, N)
  View<T const, 1> D{};                ///< (D) the skip connection; absent: none
  View<T const, 3> z{};                ///< (B, L, D) the gate; absent: none
  View<T const, 1> delta_bias{};       ///< (D) absent: 0
  bool delta_softplus = false;         ///< whether softplus is applied to delta + delta_bias
  View<Index const, 1> offsets{};      ///< (S + 1) S sequences packed along L, B = 1: sequence s is [offsets[s], offsets[s + 1])
  View<Acc const, 3> initial_state{};  ///< (B or S, D, N) absent: 0
  View<Acc, 3> last_state{};           ///< (B or S, D, N) out, may be absent
  View<T, 3> y{};                      ///< (B, L, D) out
  View<Acc, 4> kept{};                 ///< (B, scan_chunks(L), N, D) out, may be absent: states for the backward pass
};

namespace detail {

/// What the scan and its step ask of the groups of B. Throws `shape_error`.
inline void check_groups(char const* op, Index groups, Index channels) {
  if (groups < 1 || channels % groups != 0)
    throw shape_error(concat(op, ": B has ", groups, " groups, which do not divide the ", channels, " channels of u"));
}

struct selective_scan_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, SelectiveScanArgs<T> const& a) const {
    constexpr char const* op = "selective_scan";
    auto const shape = a.u.shape();
    Index const D = shape[2], N = a.A.extent(1), groups = a.B.extent(2);
    check_shape(op, "delta", a.delta, shape, "u");
    check_shape(op, "y", a.y, shape, "u");
    if (a.z) check_shape(op, "z", a.z, shape, "u");
    check_shape(op, "A", a.A, Shape<2>{D, N}, "u");
    check_groups(op, groups, D);
    check_shape(op, "B", a.B, Shape<4>{shape[0], shape[1], groups, N}, "u and A");
    check_shape(op, "C", a.C, a.B.shape(), "B");
    if (a.D) check_shape(op, "D", a.D, Shape<1>{D}, "u");
    if (a.delta_bias) check_shape(op, "delta_bias", a.delta_bias, Shape<1>{D}, "u");
    Shape<3> const state{sequence_count(op, a.offsets, shape[0]), D, N};
    if (a.initial_state) check_shape(op, "initial_state", a.initial_state, state, "u and A");
    if (a.last_state) check_shape(op, "last_state", a.last_state, state, "u and A");
    if (a.kept) check_shape(op, "kept", a.kept, Shape<4>{shape[0], scan_chunks(shape[1]), N, D}, "u and A");
    ProfileRange const range{op};
    selective_scan_on(ctx, a);
  }
};

}  // namespace detail

/// The selective scan, channel by channel d, with h of N numbers and g = d / (D / G) the group of the channel:
///
///   δ_t = delta_t + delta_bias, through softplus if asked
///   h_t = exp(δ_t A) h_{t-1} + δ_t B_t u_t ;   y_t = (C_t · h_t + D u_t) silu(z_t)
///
/// h begins as `initial_state` and is left in `last_state`, so a sequence may be cut anywhere and continued. A sequence of length
/// 0 leaves the state as it was. `kept` gets the state before each step whose number is a multiple of scan_chunk(L), which spares
/// `selective_scan_backward` a pass on `Cpu`, so a scan that takes its place on a context made from `Cpu` writes it too; other
/// contexts leave it as it was.
/// Shapes: u, delta, z, y (B, L, D); A (D, N); B, C (B, L, G, N); D, delta_bias (D); states (B, D, N), or (S, D, N) where
/// `offsets` packs S sequences, empty ones included, into a batch of 1. Any strides; the fast CPU path wants u, delta, z and y
/// contiguous in their last dimension.
/// Stored in `T`; A, the states and all arithmetic in accumulator_t<T>, y rounded once. Memory does not grow with L.
/// `y` may be the same view as `u`, `delta` or `z`, `last_state` the same as `initial_state`; nothing else may overlap.
/// Does not synchronise. Throws `shape_error` naming the argument that disagrees, `value_error` on offsets that do not ascend from
/// 0 to L. Source: Gu & Dao 2023, arXiv:2312.00752, Algorithm 2.
inline constexpr detail::selective_scan_fn selective_scan{};

}  // namespace blackmamba

#include <blackmamba/ops/selective_scan/cpu.hpp>
#include <blackmamba/ops/selective_scan/reference.hpp>
