#pragma once
/// \file
/// The step with its projection, plainly.

#include <blackmamba/ops/projected_scan_step/projected_scan_step.hpp>

namespace blackmamba {

template <Scalar T>
void projected_scan_step_on(Reference const& ctx, ProjectedScanStepArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  auto const scope = ctx.scratch().scope();
  auto const A = ctx.scratch().template take<Acc>(a.A_log.shape());
  decay(ctx, DecayArgs<T>{.A_log = a.A_log, .A = A});
  Index const batch = a.u.extent(0), D = a.u.extent(1), channels_per_group = D / a.B.extent(1);
  for (Index b = 0; b < batch; ++b)
    for (Index d = 0; d < D; ++d) {
      Index const g = d / channels_per_group;
      Acc const u = widen(a.u(b, d));
      Acc delta = Acc(0);
      for (Index k = 0; k < a.dt.extent(1); ++k) delta += widen(a.dt_weight(d, k)) * widen(a.dt(b, k));
      if (a.delta_bias) delta += widen(a.delta_bias[d]);
      if (a.delta_softplus) delta = softplus(delta);
      Acc y = detail::selective_update<T>(a.state[b][d], delta, u, View<Acc const, 1>{A[d]}, a.B[b][g], a.C[b][g]);
      if (a.D) y += widen(a.D[d]) * u;
      if (a.z) y *= silu(widen(a.z(b, d)));
      a.y(b, d) = static_cast<T>(y);
    }
}

}  // namespace blackmamba
