#pragma once
/// \file
/// The gradient of the selective scan in everything that it reads.

#include <blackmamba/ops/selective_scan/selective_scan.hpp>

namespace blackmamba {

/// Arguments of `selective_scan_backward`: what the forward pass read, the gradients of what it wrote, and where those of its
/// inputs go. An absent gradient is not computed.
template <Scalar T>
struct SelectiveScanBackwardArgs {
  using Acc = accumulator_t<T>;
  View<T const, 3> u{};                ///< (B, L, D)
  View<T const, 3> delta{};            ///< (B, L, D)
  View<Acc const, 2> A{};              ///< (D, N)
  View<T const, 4> B{};                ///< (B, L, G, N)
  View<T const, 4> C{};                ///< (B, L, G, N)
  View<T const, 1> D{};                ///< (D) absent: none
  View<T const, 3> z{};                ///< (B, L, D) absent: none
  View<T const, 1> delta_bias{};       ///< (D) absent: 0
  bool delta_softplus = false;         ///< as in the forward pass
  View<Index const, 1> offsets{};      ///< (S + 1) as in the forward pass
  View<Acc const, 3> initial_state{};  ///< (B or S, D, N) absent: 0
  View<Acc const, 4> kept{};           ///< (B, scan_chunks(L), N, D) as the forward pass left it; absent: computed again

  View<T const, 3> d_y{};             ///< (B, L, D)
  View<Acc const, 3> d_last_state{};  ///< (B or S, D, N) absent: 0

  View<T, 3> d_u{};                ///< (B, L, D) overwritten
  View<T, 3> d_delta{};            ///< (B, L, D) overwritten
  View<Acc, 2> d_A{};              ///< (D, N) added to
  View<T, 4> d_B{};                ///< (B, L, G, N) overwritten
  View<T, 4> d_C{};                ///< (B, L, G, N) overwritten
  View<Acc, 1> d_D{};              ///< (D) added to
  View<T, 3> d_z{};                ///< (B, L, D) overwritten
  View<Acc, 1> d_delta_bias{};     ///< (D) added to
  View<Acc, 3> d_initial_state{};  ///< (B or S, D, N) overwritten
};

namespace detail {

struct selective_scan_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, SelectiveScanBackwardArgs<T> const& a) const {
    constexpr char const* op = "selective_scan_backward";
    auto const shape = a.u.shape();
    Index const D = shape[2], N = a.A.extent(1), groups = a.B.extent(2);
    check_shape(op, "delta", a.delta, shape, "u");
    check_shape(op, "d_y", a.d_y, shape, "u");
    if (a.z) check_shape(op, "z", a.z, shape, "u");
    check_shape(op, "A", a.A, Shape<2>{D, N}, "u");
    check_groups(op, groups, D);
    check_shape(op, "B", a.B, Shape<4>{shape[0], shape[1], groups, N}, "u and A");
    check_shape(op, "C", a.C, a.B.shape(), "B");
    if (a.D) check_shape(op, "D", a.D, Shape<1>{D}, "u");
    if (a.delta_bias) check_shape(op, "delta_bias", a.delta_bias, Shape<1>{D}, "u");
    Shape<3> const state{sequence_count(op, a.offsets, shape[0]), D, N};
    if (a.initial_state) check_shape(op, "initial_state", a.initial_state, state, "u and A");
    if (a.kept) check_shape(op, "kept", a.kept, Shape<4>{shape[0], scan_chunks(shape[1]), N, D}, "u and A");
    if (a.d_last_state) check_shape(op, "d_last_state", a.d_last_state, state, "u and A");

    check_value(!a.d_D || a.D, op, "d_D is asked for, and D is absent");
    check_value(!a.d_z || a.z, op, "d_z is asked for, and z is absent");
    check_value(!a.d_delta_bias || a.delta_bias, op, "d_delta_bias is asked for, and delta_bias is absent");
    if (a.d_u) check_shape(op, "d_u", a.d_u, shape, "u");
    if (a.d_delta) check_shape(op, "d_delta", a.d_delta, shape, "u");
    if (a.d_A) check_shape(op, "d_A", a.d_A, a.A.shape(), "A");
    if (a.d_B) check_shape(op, "d_B", a.d_B, a.B.shape(), "B");
    if (a.d_C) check_shape(op, "d_C", a.d_C, a.C.shape(), "C");
    if (a.d_D) check_shape(op, "d_D", a.d_D, a.D.shape(), "D");
    if (a.d_z) check_shape(op, "d_z", a.d_z, shape, "u");
    if (a.d_delta_bias) check_shape(op, "d_delta_bias", a.d_delta_bias, a.delta_bias.shape(), "delta_bias");
    if (a.d_initial_state) check_shape(op, "d_initial_state", a.d_initial_state, state, "u and A");
    ProfileRange const range{op};
    selective_scan_backward_on(ctx, a);
  }
};

}  // namespace detail

/// Gradients of `selective_scan`, whose formulas and shapes these follow. With a_t = exp(δ_t A), p_t = C_t · h_t + D u_t before the
/// gate and σ the logistic function, channel by channel and from the last time to the first:
///
///   dp_t = dy_t silu(z_t) ;   dz_t = dy_t p_t σ(z_t) (1 + z_t (1 - σ(z_t)))
///   g_t  = dp_t C_t + a_{t+1} g_{t+1}          the gradient of h_t; d_last_state stands for the last product
///   dC_t = Σ dp_t h_t ;   dB_t = Σ δ_t u_t g_t  over the channels of the group
///   du_t = D dp_t + δ_t (B_t · g_t)
///   dδ_t = u_t (B_t · g_t) + A · (a_t h_{t-1} g_t) ;   ddelta_t = dδ_t, times σ(delta_t + delta_bias) through softplus
///   dA = Σ_t δ_t a_t h_{t-1} g_t ;   dD = Σ_t dp_t u_t ;   ddelta_bias = Σ_t ddelta_t ;   d_initial_state = a_first g_first
///
/// Gradients of activations (d_u, d_delta, d_B, d_C, d_z) are stored in `T`, rounded once, and overwritten; those of parameters
/// (d_A, d_D, d_delta_bias) are accumulator_t<T> and added to; d_initial_state is accumulator_t<T> and overwritten. An absent one
/// is not computed; d_initial_state may be asked for where the initial state was absent and so 0. Nothing of the forward pass is
/// needed but its inputs: states are recomputed. On the fast CPU path that takes, unless the forward pass has kept it in `kept`,
/// which no other path reads, one state for each of about sqrt(2 L) chunks of time and the states of one chunk, about 4 sqrt(L) D N
/// accumulators of scratch memory for each batch entry in flight, one of them or as many as keep the threads busy. Any strides, no
/// aliasing. Results do not depend on the number of threads. Does not synchronise. Throws `shape_error` naming the argument that
/// disagrees; `value_error` when a gradient of an absent input is asked for, and on offsets that do not ascend from 0 to L. Source:
/// Gu & Dao 2023, arXiv:2312.00752, section 3.3.2, for the recomputation.
inline constexpr detail::selective_scan_backward_fn selective_scan_backward{};

}  // namespace blackmamba

#include <blackmamba/ops/selective_scan/backward_cpu.hpp>
#include <blackmamba/ops/selective_scan/backward_reference.hpp>
