#pragma once
/// \file
/// One step of the causal convolution with channels across the lanes.

#include <algorithm>

#include <blackmamba/core/simd_math.hpp>
#include <blackmamba/ops/causal_conv1d_step/reference.hpp>

namespace blackmamba {

template <Scalar T>
requires simd::supported<T>
void causal_conv1d_step_on(Cpu const& ctx, CausalConv1dStepArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  using namespace simd;
  constexpr Index W = width<Acc>;
  bool const fast = a.x.contiguous_rows() && a.y.contiguous_rows() && a.state.contiguous_rows() && (!a.bias || a.bias.contiguous());
  if (!fast) return causal_conv1d_step_on(static_cast<Reference const&>(ctx), a);

  Index const batch = a.x.extent(0), D = a.x.extent(1), before = a.weight.extent(1) - 1, packs = ceil_div(D, W);
  // A piece has some ten thousand products, so that starting a thread is worth it.
  parallel_ranges(ctx.threads(), batch * packs, 1 + (1 << 16) / (W * (before + 8)), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      Index const b = i / packs, first = i % packs * W, count = std::min(W, D - first);
      auto const lanes = [&](T const* p) { return count == W ? load(p) : load_part(p, count); };
      auto const tap = [&](Index k) {
        pack<Acc> w{};
        for (Index c = 0; c < count; ++c) w[c] = widen(a.weight(first + c, k));
        return w;
      };
      pack<Acc> sum = a.bias ? lanes(&a.bias[first]) : pack<Acc>{};
      T newest[W];
      std::copy_n(&a.x(b, first), count, newest);
      for (Index k = 0; k < before; ++k) {
        T* const state = &a.state(b, k, first);
        sum = multiply_add(tap(k), lanes(state), sum);
        std::copy_n(k + 1 < before ? &a.state(b, k + 1, first) : newest, count, state);
      }
      sum = multiply_add(tap(before), lanes(newest), sum);
      if (a.silu) sum = silu(sum);
      if (count == W)
        store(&a.y(b, first), sum);
      else
        store_part(&a.y(b, first), sum, count);
    }
  });
}

}  // namespace blackmamba
