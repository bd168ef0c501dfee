#pragma once
/// \file
/// The linear map of few rows: every row of the weight comes from memory once, for all rows of x, at the memory's pace.

#include <type_traits>

#include <blackmamba/core/simd.hpp>
#include <blackmamba/ops/linear/linear.hpp>

namespace blackmamba::detail {

/// The dot products of R rows of the weight with S rows of x. Each keeps one pack of partial sums, whatever R and S are, so the
/// bits of a result do not depend on how the rows were grouped; R·S of them in flight hide the latency of the multiply-add.
///
/// Rows are too short for the machine to see a stream in each, so `ahead` elements past every line that is read, where the next
/// rows lie, one is asked for; into the second-level cache, since R of them together may fill the first. 0: nothing is asked for.
template <int R, int S, class T, class Put>
inline void dot_rows(T const* w, Index w_stride, Index ahead, accumulator_t<T> const* x, Index x_stride, Index K, Put&& put) {
  using A = accumulator_t<T>;
  constexpr Index W = simd::width<A>, line = 64 / static_cast<Index>(sizeof(T));
  simd::pack<A> sums[R][S] = {};
  // Unrolled whatever the optimisation level, and inlined wherever it is called, so that the sums stay in registers.
  auto const step = [&](auto const& load) __attribute__((always_inline)) {
    simd::pack<A> from_w[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) from_w[r] = load(w + r * w_stride);
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) {
      auto const from_x = load(x + s * x_stride);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sums[r][s] = simd::multiply_add(from_w[r], from_x, sums[r][s]);
    }
  };
  Index k = 0;
  auto const whole_step = [&]() __attribute__((always_inline)) {
    step([&](auto const* row) { return simd::load(row + k); });
  };
  while (k + line <= K) {
    if (ahead)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) __builtin_prefetch(w + r * w_stride + k + ahead, 0, 2);
#pragma GCC unroll 8
    for (Index i = 0; i < line / W; ++i, k += W) whole_step();
  }
  for (; k + W <= K; k += W) whole_step();
  if (k < K) step([&](auto const* row) { return simd::load_part(row + k, K - k); });
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) put(r, s, simd::sum(sums[r][s]));
}

template <Scalar T>
void linear_streamed(Cpu const& ctx, LinearArgs<T> const& a) {
  using A = accumulator_t<T>;
  Index const M = a.x.extent(0), K = a.x.extent(1), N = a.weight.extent(0);
  auto const scope = ctx.scratch().scope();
  View<A const, 2> x;
  if constexpr (std::is_same_v<T, A>) {
    x = a.x;
  } else {
    auto const wide = ctx.scratch().template take<A>(Shape{M, K});
    for (Index m = 0; m < M; ++m)
      for (Index k = 0; k < K; ++k) wide(m, k) = widen(a.x(m, k));
    x = wide;
  }

  Index const w_stride = a.weight.stride(0), x_stride = x.stride(0);
  // All rows of x against rows [n, n + R) of the weight, which the second group of four finds in the first-level cache.
  auto const block = [&]<int R>(std::integral_constant<int, R>, Index n) {
    Index m = 0;
    auto const group = [&]<int S>(std::integral_constant<int, S>) {
      Index const ahead = m == 0 && n + 2 * R <= N ? R * w_stride : 0;
      dot_rows<R, S>(a.weight.data() + n * w_stride, w_stride, ahead, x.data() + m * x_stride, x_stride, K,
                     [&](int r, int s, A sum) { a.y(m + s, n + r) = static_cast<T>(a.bias ? sum + widen(a.bias(n + r)) : sum); });
      m += S;
    };
    while (m + 4 <= M) group(std::integral_constant<int, 4>{});
    if (m + 2 <= M) group(std::integral_constant<int, 2>{});
    if (m < M) group(std::integral_constant<int, 1>{});
  };
  constexpr std::integral_constant<int, 1> one{};
  auto const rows = [&](auto R) {
    // About 64 KiB of the weight a piece: enough to pay for handing it out, little enough to share small weights evenly.
    Index const row_bytes = K * static_cast<Index>(sizeof(T)) + 1;
    Index const grain = ceil_div((Index{1} << 16) / row_bytes + 1, Index{R}) * R;
    parallel_ranges(ctx.threads(), N, grain, [&](Index begin, Index end) {
      Index n = begin;
      for (; n + R <= end; n += R) block(R, n);
      for (; n < end; ++n) block(one, n);
    });
  };
  // As many rows of the weight at once as the registers hold partial sums for, S = 4 at most.
  if (M == 1)
    rows(std::integral_constant<int, 8>{});
  else
    rows(std::integral_constant<int, 3>{});
}

}  // namespace blackmamba::detail
