#pragma once
/// \file
/// The step with its projection on packs: a channel's row of the projection with the lanes along it, its states likewise.

#include <algorithm>

#include <blackmamba/core/simd_math.hpp>
#include <blackmamba/ops/projected_scan_step/reference.hpp>
#include <blackmamba/ops/selective_scan_step/cpu.hpp>

namespace blackmamba {

namespace detail {

/// Entries of the batch whose step sizes are found together, so that a row of the projection is widened once for all of them.
inline constexpr Index projected_together = 4;

/// to[e] = row · x[e], rows of `count`; x has rows of its own stride.
template <int Entries, class T, class Acc>
inline void dots_of_row(Acc* to, T const* row, Acc const* x, Index stride, Index count) {
  using namespace simd;
  constexpr Index W = width<Acc>;
  Index const whole = count / W * W, rest = count - whole;
  pack<Acc> dot[Entries]{};
  for (Index i = 0; i < whole; i += W) {
    pack<Acc> const w = load(row + i);
    for (int e = 0; e < Entries; ++e) dot[e] = multiply_add(w, load(x + e * stride + i), dot[e]);
  }
  if (rest) {
    pack<Acc> const w = load_part(row + whole, rest);
    for (int e = 0; e < Entries; ++e) dot[e] = multiply_add(w, load_part(x + e * stride + whole, rest), dot[e]);
  }
  for (int e = 0; e < Entries; ++e) to[e] = sum(dot[e]);
}

}  // namespace detail

template <Scalar T>
requires simd::supported<T>
void projected_scan_step_on(Cpu const& ctx, ProjectedScanStepArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  using namespace simd;
  constexpr Index W = width<Acc>;

  bool const fast = a.u.contiguous_rows() && a.dt.contiguous_rows() && a.dt_weight.contiguous_rows() && a.y.contiguous_rows() &&
                    a.B.contiguous_rows() && a.C.contiguous_rows() && a.state.contiguous_rows() &&
                    (!a.z || a.z.contiguous_rows()) && (!a.D || a.D.contiguous()) && (!a.delta_bias || a.delta_bias.contiguous());
  if (!fast) return projected_scan_step_on(static_cast<Reference const&>(ctx), a);

  Index const batch = a.u.extent(0), D = a.u.extent(1), R = a.dt.extent(1), N = a.A_log.extent(1), packs = ceil_div(D, W);
  if (batch == 0 || D == 0) return;
  auto const scope = ctx.scratch().scope();
  auto const A = ctx.scratch().template take<Acc>(a.A_log.shape());
  decay(ctx, DecayArgs<T>{.A_log = a.A_log, .A = A});
  Index const channels_per_group = D / a.B.extent(1);
  auto const dt = ctx.scratch().template take<Acc>(Shape<2>{batch, R});
  for (Index b = 0; b < batch; ++b)
    for (Index k = 0; k < R; ++k) dt(b, k) = widen(a.dt(b, k));
  constexpr Index together = detail::projected_together;
  Index const groups = ceil_div(batch, together);
  // A piece has some thousands of states and weights, so that starting a thread is worth it.
  parallel_ranges(ctx.threads(), packs * groups, 1 + (1 << 13) / (W * together * (N + R + 4)), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      Index const first = i % packs * W, count = std::min(W, D - first), b0 = i / packs * together;
      Index const entries = std::min(together, batch - b0);
      Acc steps[W][together];
      for (Index c = 0; c < count; ++c) {
        T const* const row = &a.dt_weight(first + c, 0);
        if (entries == together)
          detail::dots_of_row<together>(steps[c], row, &dt(b0, 0), R, R);
        else
          for (Index e = 0; e < entries; ++e) detail::dots_of_row<1>(steps[c] + e, row, &dt(b0 + e, 0), R, R);
      }
      auto const lanes = [&](T const* p) { return count == W ? load(p) : load_part(p, count); };
      for (Index b = b0; b < b0 + entries; ++b) {
        pack<Acc> const u = lanes(&a.u(b, first));
        pack<Acc> delta{}, y{};
        for (Index c = 0; c < count; ++c) delta[c] = steps[c][b - b0];
        if (a.delta_bias) delta += lanes(&a.delta_bias[first]);
        if (a.delta_softplus) delta = softplus(delta);
        pack<Acc> const input = delta * u;
        for (Index c = 0; c < count; ++c) {
          Index const d = first + c, g = d / channels_per_group;
          y[c] = detail::selective_update_lanes(&a.state(b, d, 0), &A(d, 0), &a.B(b, g, 0), &a.C(b, g, 0),
                                                static_cast<Acc>(delta[c]), static_cast<Acc>(input[c]), N);
        }
        if (a.D) y += lanes(&a.D[first]) * u;
        if (a.z) y *= silu(lanes(&a.z(b, first)));
        if (count == W)
          store(&a.y(b, first), y);
        else
          store_part(&a.y(b, first), y, count);
      }
    }
  });
}

}  // namespace blackmamba
