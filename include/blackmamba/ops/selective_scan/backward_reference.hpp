#pragma once
/// \file
/// The gradient of the selective scan, plainly: one channel of one sequence at a time, all its states kept.

#include <algorithm>

#include <blackmamba/ops/activation/functions.hpp>
#include <blackmamba/ops/selective_scan/backward.hpp>

namespace blackmamba {

namespace detail {

/// What one channel adds to, and the memory it works in.
template <class Acc>
struct ScanBackwardMemory {
  View<Acc, 2> state;     ///< (longest + 1, N) the states before each step and after the last
  View<Acc, 2> d_B, d_C;  ///< (longest, N) sums over the channels of a group
  View<Acc, 1> g, d_A;    ///< (N)
};

template <Scalar T>
void scan_backward_channel(SelectiveScanBackwardArgs<T> const& a, Sequences::Range const& range, Index s, Index d, Index group,
                           ScanBackwardMemory<accumulator_t<T>> const& memory) {
  using Acc = accumulator_t<T>;
  Index const b = range.batch, N = a.A.extent(1);
  auto const& [state, d_B, d_C, g, d_A] = memory;
  auto const before_softplus = [&](Index t) {
    return a.delta_bias ? widen(a.delta(b, t, d)) + widen(a.delta_bias[d]) : widen(a.delta(b, t, d));
  };
  auto const step_size = [&](Index t) { return a.delta_softplus ? softplus(before_softplus(t)) : before_softplus(t); };

  for (Index n = 0; n < N; ++n) state(0, n) = a.initial_state ? a.initial_state(s, d, n) : Acc(0);
  for (Index t = range.begin, i = 0; t < range.end; ++t, ++i) {
    Acc const delta = step_size(t), input = delta * widen(a.u(b, t, d));
    for (Index n = 0; n < N; ++n) state(i + 1, n) = exp(delta * a.A(d, n)) * state(i, n) + input * widen(a.B(b, t, group, n));
  }

  Acc d_D{0}, d_bias{0};
  for (Index n = 0; n < N; ++n) {
    g[n] = a.d_last_state ? a.d_last_state(s, d, n) : Acc(0);
    d_A[n] = Acc(0);
  }
  for (Index t = range.end - 1, i = t - range.begin; i >= 0; --t, --i) {
    Acc const delta = step_size(t), u = widen(a.u(b, t, d)), d_y = widen(a.d_y(b, t, d));
    Acc const skip = a.D ? widen(a.D[d]) : Acc(0);
    Acc d_sum = d_y;
    if (a.z) {
      Acc const z = widen(a.z(b, t, d)), gate = sigmoid(z);
      if (a.d_z) {
        Acc sum = skip * u;
        for (Index n = 0; n < N; ++n) sum += widen(a.C(b, t, group, n)) * state(i + 1, n);
        a.d_z(b, t, d) = static_cast<T>(d_y * sum * gate * (Acc(1) + z * (Acc(1) - gate)));
      }
      d_sum *= z * gate;
    }
    Acc through_B{0}, through_A{0};
    for (Index n = 0; n < N; ++n) {
      Acc const A = a.A(d, n), B = widen(a.B(b, t, group, n)), C = widen(a.C(b, t, group, n));
      Acc const decay = exp(delta * A), carried = decay * state(i, n);
      g[n] += d_sum * C;
      d_C(i, n) += d_sum * state(i + 1, n);
      d_B(i, n) += delta * u * g[n];
      d_A[n] += delta * carried * g[n];
      through_B += B * g[n];
      through_A += A * carried * g[n];
      g[n] *= decay;
    }
    Acc d_delta = u * through_B + through_A;
    if (a.delta_softplus) d_delta *= sigmoid(before_softplus(t));
    if (a.d_u) a.d_u(b, t, d) = static_cast<T>(skip * d_sum + delta * through_B);
    if (a.d_delta) a.d_delta(b, t, d) = static_cast<T>(d_delta);
    d_D += d_sum * u;
    d_bias += d_delta;
  }

  for (Index n = 0; n < N; ++n) {
    if (a.d_A) a.d_A(d, n) += d_A[n];
    if (a.d_initial_state) a.d_initial_state(s, d, n) = g[n];
  }
  if (a.d_D) a.d_D[d] += d_D;
  if (a.d_delta_bias) a.d_delta_bias[d] += d_bias;
}

}  // namespace detail

template <Scalar T>
void selective_scan_backward_on(Reference const& ctx, SelectiveScanBackwardArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  Index const N = a.A.extent(1), groups = a.B.extent(2), per_group = a.u.extent(2) / groups;
  Sequences const sequences{"selective_scan_backward", a.offsets, a.u.extent(0), a.u.extent(1)};
  Index longest = 0;
  for (Index s = 0; s < sequences.count(); ++s) longest = std::max(longest, sequences[s].end - sequences[s].begin);

  auto const scope = ctx.scratch().scope();
  Arena& scratch = ctx.scratch();
  detail::ScanBackwardMemory<Acc> const memory{scratch.template take<Acc>(Shape<2>{longest + 1, N}),
                                               scratch.template take<Acc>(Shape<2>{longest, N}),
                                               scratch.template take<Acc>(Shape<2>{longest, N}),
                                               scratch.template take<Acc>(Shape<1>{N}), scratch.template take<Acc>(Shape<1>{N})};
  for (Index s = 0; s < sequences.count(); ++s) {
    auto const range = sequences[s];
    Index const length = range.end - range.begin;
    for (Index group = 0; group < groups; ++group) {
      for (Index i = 0; i < length; ++i)
        for (Index n = 0; n < N; ++n) memory.d_B(i, n) = memory.d_C(i, n) = Acc(0);
      for (Index d = group * per_group; d < (group + 1) * per_group; ++d)
        detail::scan_backward_channel(a, range, s, d, group, memory);
      for (Index i = 0; i < length; ++i)
        for (Index n = 0; n < N; ++n) {
          if (a.d_B) a.d_B(range.batch, range.begin + i, group, n) = static_cast<T>(memory.d_B(i, n));
          if (a.d_C) a.d_C(range.batch, range.begin + i, group, n) = static_cast<T>(memory.d_C(i, n));
        }
    }
  }
}

}  // namespace blackmamba
