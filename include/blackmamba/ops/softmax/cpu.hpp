#pragma once
/// \file
/// Softmax and log-softmax on packs, rows over threads. A row is read three times and its exponentials are computed twice: a row
/// of a large vocabulary stays in the second-level cache, and a second exponential costs less than a rounding to half would.

#include <blackmamba/ops/softmax/packs.hpp>
#include <blackmamba/ops/softmax/softmax.hpp>

namespace blackmamba {

namespace detail {

/// y_i = finish(rest)(x_i - max) for every row.
template <Scalar T, class Finish>
void softmax_rows(int threads, SoftmaxArgs<T> const& a, Finish finish) {
  using A = accumulator_t<T>;
  using namespace simd;
  constexpr Index W = width<A>;
  Index const rows = a.x.extent(0), D = a.x.extent(1), whole = D / W * W, rest = D - whole;
  parallel_ranges(threads, rows, 1 + (1 << 13) / D, [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      T const* const x = &a.x(r, 0);
      T* const y = &a.y(r, 0);
      RowSum<A> const row = row_sum(x, D);
      auto const of_row = finish(row.rest);
      for (Index i = 0; i < whole; i += W) store(y + i, of_row(load(x + i) - row.max));
      if (rest) store_part(y + whole, of_row(load_part(x + whole, rest) - row.max), rest);
    }
  });
}

}  // namespace detail

template <Scalar T>
requires simd::supported<T>
void softmax_on(Cpu const& ctx, SoftmaxArgs<T> const& a) {
  using A = accumulator_t<T>;
  if (!a.x.contiguous_rows() || !a.y.contiguous_rows()) return softmax_on(static_cast<Reference const&>(ctx), a);
  detail::softmax_rows(ctx.threads(), a, [](A rest) {
    return [scale = A(1) / (A(1) + rest)](simd::pack<A> difference) { return simd::exp_flushed(difference) * scale; };
  });
}

template <Scalar T>
requires simd::supported<T>
void log_softmax_on(Cpu const& ctx, SoftmaxArgs<T> const& a) {
  using A = accumulator_t<T>;
  if (!a.x.contiguous_rows() || !a.y.contiguous_rows()) return log_softmax_on(static_cast<Reference const&>(ctx), a);
  detail::softmax_rows(ctx.threads(), a,
                       [](A rest) { return [log_sum = log1p(rest)](simd::pack<A> difference) { return difference - log_sum; }; });
}

}  // namespace blackmamba
