#pragma once
/// \file
/// One step of the selective scan with states across the lanes, as they lie in memory; what each channel does once (softplus, the
/// gate) is done for a pack of channels together.

#include <algorithm>

#include <blackmamba/core/simd_math.hpp>
#include <blackmamba/ops/selective_scan_step/reference.hpp>

namespace blackmamba {

namespace detail {

/// One channel: h ← exp(δ A) h + (δ u) B over N states; gives C · h.
template <class T, class Acc>
inline Acc selective_update_lanes(Acc* h, Acc const* A, T const* B, T const* C, Acc delta, Acc input, Index N) {
  using namespace simd;
  constexpr Index W = width<Acc>;
  Index const whole = N / W * W, rest = N - whole;
  pack<Acc> dot{};
  for (Index n = 0; n < whole; n += W) {
    pack<Acc> const next = multiply_add(exp_flushed(delta * load(A + n)), load(h + n), input * load(B + n));
    store(h + n, next);
    dot = multiply_add(next, load(C + n), dot);
  }
  if (rest) {
    pack<Acc> const next =
        exp_flushed(delta * load_part(A + whole, rest)) * load_part(h + whole, rest) + input * load_part(B + whole, rest);
    store_part(h + whole, next, rest);
    dot = multiply_add(next, load_part(C + whole, rest), dot);
  }
  return sum(dot);
}

}  // namespace detail

template <Scalar T>
requires simd::supported<T>
void selective_scan_step_on(Cpu const& ctx, SelectiveScanStepArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  using namespace simd;
  constexpr Index W = width<Acc>;

  bool const fast = a.u.contiguous_rows() && a.delta.contiguous_rows() && a.y.contiguous_rows() && a.A.contiguous_rows() &&
                    a.B.contiguous_rows() && a.C.contiguous_rows() && a.state.contiguous_rows() &&
                    (!a.z || a.z.contiguous_rows()) && (!a.D || a.D.contiguous()) && (!a.delta_bias || a.delta_bias.contiguous());
  if (!fast) return selective_scan_step_on(static_cast<Reference const&>(ctx), a);

  Index const batch = a.u.extent(0), D = a.u.extent(1), N = a.A.extent(1), packs = ceil_div(D, W);
  if (batch == 0 || D == 0) return;
  Index const channels_per_group = D / a.B.extent(1);
  // A piece has some thousands of states, so that starting a thread is worth it.
  parallel_ranges(ctx.threads(), batch * packs, 1 + (1 << 13) / (W * (N + 4)), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      Index const b = i / packs, first = i % packs * W, count = std::min(W, D - first);
      auto const lanes = [&](T const* p) { return count == W ? load(p) : load_part(p, count); };
      pack<Acc> const u = lanes(&a.u(b, first));
      pack<Acc> delta = lanes(&a.delta(b, first));
      if (a.delta_bias) delta += lanes(&a.delta_bias[first]);
      if (a.delta_softplus) delta = softplus(delta);
      pack<Acc> const input = delta * u;
      pack<Acc> y{};
      for (Index c = 0; c < count; ++c) {
        Index const d = first + c, g = d / channels_per_group;
        y[c] = detail::selective_update_lanes(&a.state(b, d, 0), &a.A(d, 0), &a.B(b, g, 0), &a.C(b, g, 0),
                                              static_cast<Acc>(delta[c]), static_cast<Acc>(input[c]), N);
      }
      if (a.D) y += lanes(&a.D[first]) * u;
      if (a.z) y *= silu(lanes(&a.z(b, first)));
      if (count == W)
        store(&a.y(b, first), y);
      else
        store_part(&a.y(b, first), y, count);
    }
  });
}

}  // namespace blackmamba
