#pragma once
/// \file
/// One step of the selective scan, plainly.

#include <blackmamba/ops/selective_scan_step/selective_scan_step.hpp>

namespace blackmamba {

template <Scalar T>
void selective_scan_step_on(Reference const&, SelectiveScanStepArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  Index const batch = a.u.extent(0), D = a.u.extent(1), channels_per_group = D / a.B.extent(1);
  for (Index b = 0; b < batch; ++b)
    for (Index d = 0; d < D; ++d) {
      Index const g = d / channels_per_group;
      Acc const u = widen(a.u(b, d));
      Acc delta = widen(a.delta(b, d));
      if (a.delta_bias) delta += widen(a.delta_bias[d]);
      if (a.delta_softplus) delta = softplus(delta);
      Acc y = detail::selective_update<T>(a.state[b][d], delta, u, a.A[d], a.B[b][g], a.C[b][g]);
      if (a.D) y += widen(a.D[d]) * u;
      if (a.z) y *= silu(widen(a.z(b, d)));
      a.y(b, d) = static_cast<T>(y);
    }
}

}  // namespace blackmamba
