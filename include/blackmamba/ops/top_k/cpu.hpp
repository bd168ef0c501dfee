#pragma once
/// \file
/// Top-k with rows over threads. A pack of elements none of which beats the weakest kept so far, which is nearly every pack of a
/// long row, costs one comparison.

#include <blackmamba/core/simd.hpp>
#include <blackmamba/ops/top_k/strongest.hpp>
#include <blackmamba/ops/top_k/top_k.hpp>

namespace blackmamba {

namespace detail {

/// Whether any lane of a comparison of packs holds.
template <class Mask>
bool any_lane(Mask mask) {
  auto const words = __builtin_bit_cast(simd::int_pack<double>, mask);
  return ((words[0] | words[1]) | (words[2] | words[3])) != 0;
}

/// Orders the `k` strongest of row `x` of length `D` into `order`. False, with `order` unfinished, if a NaN is met.
template <class T>
bool order_row(T const* x, Index D, int* order, Index k) {
  using A = accumulator_t<T>;
  constexpr Index W = simd::width<A>;
  for (Index i = 0; i < k; ++i)
    if (is_nan(widen(x[i]))) return false;
  Strongest<T> strongest{View<T const, 1>{x, Shape{D}}, order, k};
  auto const offer = [&](Index i) {
    if (is_nan(widen(x[i]))) return false;
    strongest.offer(i);
    return true;
  };
  Index i = k;
  for (; i + W <= D; i += W) {
    // A later element loses a tie, and ~(≤) holds for NaN too.
    if (!any_lane(~(simd::load(x + i) <= simd::broadcast(widen(x[strongest.weakest()]))))) continue;
    for (Index lane = 0; lane < W; ++lane)
      if (!offer(i + lane)) return false;
  }
  for (; i < D; ++i)
    if (!offer(i)) return false;
  strongest.sort();
  return true;
}

}  // namespace detail

template <Scalar T>
requires simd::supported<T>
void top_k_on(Cpu const& ctx, TopKArgs<T> const& a) {
  if (!a.x.contiguous_rows()) return top_k_on(static_cast<Reference const&>(ctx), a);

  Index const rows = a.x.extent(0), D = a.x.extent(1), k = a.indices.extent(1);
  auto const scope = ctx.scratch().scope();
  auto const order = ctx.scratch().template take<int>(Shape{rows, k});
  parallel_ranges(ctx.threads(), rows, 1 + (1 << 14) / (D + 1), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      bool const good = detail::order_row(&a.x(r, 0), D, &order(r, 0), k);
      if (good)
        detail::write_row(a.x[r], &order(r, 0), a.indices[r], a.values ? a.values[r] : View<T, 1>{});
      else
        a.indices(r, 0) = -1;
    }
  });
  // Which row is named must not depend on which thread came first.
  for (Index r = 0; r < rows; ++r)
    if (a.indices(r, 0) < 0) detail::refuse_nan("top_k", a.x, r);
}

}  // namespace blackmamba
