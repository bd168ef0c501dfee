#pragma once
/// \file
/// The selective scan, plainly.

#include <blackmamba/ops/activation/functions.hpp>
#include <blackmamba/ops/selective_scan/selective_scan.hpp>

namespace blackmamba {

namespace detail {

/// h ← exp(δ A) h + δ B u for one channel at one time; gives C · h.
template <Scalar T>
accumulator_t<T> selective_update(View<accumulator_t<T>, 1> h, accumulator_t<T> delta, accumulator_t<T> u,
                                  View<accumulator_t<T> const, 1> A, View<T const, 1> B, View<T const, 1> C) {
  accumulator_t<T> sum{0};
  for (Index n = 0; n < h.extent(0); ++n) {
    h[n] = exp(delta * A[n]) * h[n] + delta * u * widen(B[n]);
    sum += widen(C[n]) * h[n];
  }
  return sum;
}

}  // namespace detail

template <Scalar T>
void selective_scan_on(Reference const& ctx, SelectiveScanArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  Index const D = a.u.extent(2), N = a.A.extent(1), channels_per_group = D / a.B.extent(2);
  Sequences const sequences{"selective_scan", a.offsets, a.u.extent(0), a.u.extent(1)};
  auto const scope = ctx.scratch().scope();
  View<Acc, 1> const h = ctx.scratch().template take<Acc>(Shape<1>{N});

  for (Index s = 0; s < sequences.count(); ++s) {
    auto const [b, begin, end] = sequences[s];
    for (Index d = 0; d < D; ++d) {
      Index const g = d / channels_per_group;
      for (Index n = 0; n < N; ++n) h[n] = a.initial_state ? a.initial_state(s, d, n) : Acc(0);
      for (Index t = begin; t < end; ++t) {
        Acc const u = widen(a.u(b, t, d));
        Acc delta = widen(a.delta(b, t, d));
        if (a.delta_bias) delta += widen(a.delta_bias[d]);
        if (a.delta_softplus) delta = softplus(delta);
        Acc y = detail::selective_update<T>(h, delta, u, a.A[d], a.B[b][t][g], a.C[b][t][g]);
        if (a.D) y += widen(a.D[d]) * u;
        if (a.z) y *= silu(widen(a.z(b, t, d)));
        a.y(b, t, d) = static_cast<T>(y);
      }
      if (a.last_state)
        for (Index n = 0; n < N; ++n) a.last_state(s, d, n) = h[n];
    }
  }
}

}  // namespace blackmamba
