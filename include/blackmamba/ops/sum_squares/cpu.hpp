#pragma once
/// \file
/// The sum of squares on packs of doubles, pieces of the array over threads.

#include <cstring>

#include <blackmamba/core/simd.hpp>
#include <blackmamba/ops/sum_squares/reference.hpp>

namespace blackmamba {

namespace detail {

/// Adds the squares of a pack's elements, in double.
struct SquaresOfPacks {
  using V = simd::pack<double>;
  V low{}, high{};

  void add(simd::pack<double> x) { low = simd::multiply_add(x, x, low); }
  void add(simd::pack<float> x) {
    using Half = float __attribute__((vector_size(16)));
    Half halves[2];
    std::memcpy(halves, &x, sizeof x);
    V const a = __builtin_convertvector(halves[0], V), b = __builtin_convertvector(halves[1], V);
    low = simd::multiply_add(a, a, low);
    high = simd::multiply_add(b, b, high);
  }
};

}  // namespace detail

template <Scalar T>
requires simd::supported<T>
double sum_squares_on(Cpu const& ctx, SumSquaresArgs<T> const& a) {
  if (!a.x.contiguous()) return sum_squares_on(static_cast<Reference const&>(ctx), a);

  constexpr Index W = simd::width<accumulator_t<T>>, piece = Index{1} << 14;
  Index const n = a.x.extent(0);
  T const* const x = a.x.data();
  auto const scope = ctx.scratch().scope();
  auto const sums = ctx.scratch().template take<double>(Shape<1>{ceil_div(n, piece)});
  parallel_ranges(ctx.threads(), n, piece, [&](Index begin, Index end) {
    detail::SquaresOfPacks even, odd;  // two chains, so that one addition need not wait for the other
    Index i = begin;
    for (; i + 2 * W <= end; i += 2 * W) {
      even.add(simd::load(x + i));
      odd.add(simd::load(x + i + W));
    }
    for (; i < end; i += W) even.add(i + W <= end ? simd::load(x + i) : simd::load_part(x + i, end - i));
    sums(begin / piece) = simd::sum((even.low + even.high) + (odd.low + odd.high));
  });
  double sum = 0;
  for (Index i = 0; i < sums.extent(0); ++i) sum += sums(i);
  return sum;
}

}  // namespace blackmamba
