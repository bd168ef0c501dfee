#pragma once
/// \file
/// The causal convolution with channels across the lanes and times over threads. The weights are transposed once, so that each
/// tap is one product of packs.

#include <algorithm>

#include <blackmamba/core/simd_math.hpp>
#include <blackmamba/ops/causal_conv1d/reference.hpp>

namespace blackmamba {

namespace detail {

/// Every channel at one time: `row(k)` is where the inputs of tap k begin. Static for the usual widths, 0 for any.
template <Index Static, Scalar T, class Row>
void conv_row(T* y, Row&& row, accumulator_t<T> const* weight, T const* bias, bool with_silu, Index D, Index K) {
  using Acc = accumulator_t<T>;
  using namespace simd;
  constexpr Index W = width<Acc>;
  Index const stride = ceil_div(D, W) * W;
  if constexpr (Static > 0) K = Static;
  T const* rows[Static > 0 ? Static : 1];
  if constexpr (Static > 0)
    for (Index k = 0; k < Static; ++k) rows[k] = row(k);
  for (Index d = 0; d < D; d += W) {
    Index const count = std::min(W, D - d);
    auto const lanes = [&](T const* p) { return count == W ? load(p) : load_part(p, count); };
    pack<Acc> sum = bias ? lanes(bias + d) : pack<Acc>{};
    for (Index k = 0; k < K; ++k) {
      if constexpr (Static > 0)
        sum = multiply_add(load(weight + k * stride + d), lanes(rows[k] + d), sum);
      else
        sum = multiply_add(load(weight + k * stride + d), lanes(row(k) + d), sum);
    }
    if (with_silu) sum = silu(sum);
    if (count == W)
      store(y + d, sum);
    else
      store_part(y + d, sum, count);
  }
}

}  // namespace detail

template <Scalar T>
requires simd::supported<T>
void causal_conv1d_on(Cpu const& ctx, CausalConv1dArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  constexpr Index W = simd::width<Acc>;
  bool const fast = a.x.contiguous_rows() && a.y.contiguous_rows() && (!a.bias || a.bias.contiguous()) &&
                    (!a.initial_state || a.initial_state.contiguous_rows());
  if (!fast) return causal_conv1d_on(static_cast<Reference const&>(ctx), a);

  Index const L = a.x.extent(1), D = a.x.extent(2), K = a.weight.extent(1);
  Sequences const sequences{"causal_conv1d", a.offsets, a.x.extent(0), L};
  auto const scope = ctx.scratch().scope();
  View<Acc, 2> const weight = ctx.scratch().template take_zeros<Acc>(Shape<2>{K, ceil_div(D, W) * W});
  View<T, 1> const zeros = ctx.scratch().template take_zeros<T>(Shape<1>{D});
  for (Index d = 0; d < D; ++d)
    for (Index k = 0; k < K; ++k) weight(k, d) = widen(a.weight(d, k));

  auto const one = [&](Index s, Sequences::Range const& range, Index t) {
    auto const row = [&](Index k) -> T const* {
      Index const from = t - (K - 1) + k;
      if (from >= range.begin) return &a.x(range.batch, from, 0);
      return a.initial_state ? &a.initial_state(s, K - 1 + from - range.begin, 0) : zeros.data();
    };
    auto const run = [&]<Index Static>(std::integral_constant<Index, Static>) {
      detail::conv_row<Static>(&a.y(range.batch, t, 0), row, weight.data(), a.bias.data(), a.silu, D, K);
    };
    switch (K) {
      case 2:
        return run(std::integral_constant<Index, 2>{});
      case 3:
        return run(std::integral_constant<Index, 3>{});
      case 4:
        return run(std::integral_constant<Index, 4>{});
      default:
        return run(std::integral_constant<Index, 0>{});
    }
  };

  Index const grain = 1 + (1 << 14) / (D + 1);
  if (a.offsets) {
    parallel_ranges(ctx.threads(), L, grain, [&](Index begin, Index end) {
      // The last sequence that begins at or before `begin`; empty ones before it do not matter.
      Index low = 0, high = sequences.count();
      while (high - low > 1) {
        Index const middle = low + (high - low) / 2;
        (a.offsets[middle] <= begin ? low : high) = middle;
      }
      for (Index s = low, t = begin; t < end; ++s)
        for (auto const range = sequences[s]; t < std::min(end, range.end); ++t) one(s, range, t);
    });
  } else {
    parallel_ranges(ctx.threads(), a.x.extent(0) * L, grain, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) one(i / L, sequences[i / L], i % L);
    });
  }
  if (a.last_state) detail::leave_conv_state(a, sequences);
}

}  // namespace blackmamba
