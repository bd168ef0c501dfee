#pragma once
/// \file
/// The linear map of few rows: every row of the weight comes from memory once, for all rows of x, at the memory's pace.

#include <algorithm>
#include <type_traits>

#include <blackmamba/core/simd.hpp>
#include <blackmamba/ops/linear/linear.hpp>

#if defined(__CUDACC__)
#pragma nv_diagnostic push
#pragma nv_diag_suppress 1675  // it does not know the unrolling that it leaves to the host's compiler
#endif

namespace blackmamba::detail {

/// The dot products of R rows of the weight with S rows of x. Each keeps one pack of partial sums, whatever R and S are, so the
/// bits of a result do not depend on how the rows were grouped; R·S of them in flight hide the latency of the multiply-add.
template <int R, int S, class T, class Put>
inline void dot_rows(T const* w, Index w_stride, accumulator_t<T> const* x, Index x_stride, Index K, Put&& put) {
  using A = accumulator_t<T>;
  constexpr Index W = simd::width<A>;
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
#pragma GCC unroll 4
  for (; k + W <= K; k += W) step([&](auto const* row) { return simd::load(row + k); });
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
  // All rows of x against R rows of the weight, `apart` from one to the next; the second group of four finds them in the cache.
  auto const block = [&]<int R>(std::integral_constant<int, R>, Index n, Index apart) {
    Index m = 0;
    auto const group = [&]<int S>(std::integral_constant<int, S>) {
      dot_rows<R, S>(a.weight.data() + n * w_stride, apart * w_stride, x.data() + m * x_stride, x_stride, K,
                     [&](int r, int s, A sum) {
                       Index const row = n + r * apart;
                       a.y(m + s, row) = static_cast<T>(a.bias ? sum + widen(a.bias(row)) : sum);
                     });
      m += S;
    };
    while (m + 4 <= M) group(std::integral_constant<int, 4>{});
    if (m + 2 <= M) group(std::integral_constant<int, 2>{});
    if (m < M) group(std::integral_constant<int, 1>{});
  };
  auto const rows = [&]<int R>(std::integral_constant<int, R> streams) {
    // A piece is R stretches of the weight, read side by side: each goes on where it stopped for 16 KiB, which is what the
    // machine's prefetchers follow. Rows side by side would be R streams that end after a row of 1 or 2 KiB, and reach two thirds
    // of the pace. Small weights are cut finer, so that there is something for every thread.
    Index const row_bytes = K * static_cast<Index>(sizeof(T)) + 1;
    Index const finest = std::max<Index>(1, N / (4 * R));
    Index const stretch = std::min(finest, ceil_div(Index{1} << 14, row_bytes));
    parallel_ranges(ctx.threads(), N, R * stretch, [&](Index begin, Index end) {
      if (end - begin == R * stretch)
        for (Index n = begin; n < begin + stretch; ++n) block(streams, n, stretch);
      else
        for (Index n = begin; n < end; ++n) block(std::integral_constant<int, 1>{}, n, 1);
    });
  };
  // As many rows of the weight at once as the registers hold partial sums for, S = 4 at most.
  if (M == 1)
    rows(std::integral_constant<int, 8>{});
  else
    rows(std::integral_constant<int, 3>{});
}

}  // namespace blackmamba::detail

#if defined(__CUDACC__)
#pragma nv_diagnostic pop
#endif
