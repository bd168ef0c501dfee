#pragma once
/// \file
/// `row_sum` on packs, for contiguous rows.

#include <limits>

#include <blackmamba/core/simd_math.hpp>
#include <blackmamba/ops/softmax/row.hpp>

namespace blackmamba::detail {

/// The first `count` < width elements; the rest of the pack is -inf, which no maximum and no sum of exponentials sees.
template <class T>
simd::pack<accumulator_t<T>> load_part_masked(T const* p, Index count) {
  using A = accumulator_t<T>;
  auto out = simd::broadcast(-std::numeric_limits<A>::infinity());
  for (Index i = 0; i < count; ++i) out[i] = widen(p[i]);
  return out;
}

template <class A>
A largest_lane(simd::pack<A> x) {
  A max = x[0];
  for (int i = 1; i < simd::width<A>; ++i)
    if (x[i] > max) max = x[i];
  return max;
}

template <class T>
RowSum<accumulator_t<T>> row_sum(T const* x, Index n) {
  using A = accumulator_t<T>;
  using namespace simd;
  constexpr Index W = width<A>;
  Index const whole = n / W * W;
  // The comparison is false for NaN, which the sum then meets.
  auto const larger = [](pack<A> a, pack<A> b) { return select(a > b, a, b); };
  pack<A> maxima = load_part_masked(x + whole, n - whole);
  maxima = larger(maxima, broadcast(-std::numeric_limits<A>::infinity()));
  for (Index i = 0; i < whole; i += W) maxima = larger(load(x + i), maxima);
  A const max = largest_lane<A>(maxima);
  if (!isfinite(max)) return {max, std::numeric_limits<A>::quiet_NaN()};
  // The elements that are the maximum are counted, so that all but one of them go into the rest.
  pack<A> below{}, at_max{};
  auto const add = [&](pack<A> v) {
    auto const is_max = v == max;
    below += select(is_max, pack<A>{}, exp_flushed(v - max));
    at_max += select(is_max, broadcast(A(1)), pack<A>{});
  };
  add(load_part_masked(x + whole, n - whole));
  for (Index i = 0; i < whole; i += W) add(load(x + i));
  return {max, sum(below) + (sum(at_max) - A(1))};
}

}  // namespace blackmamba::detail
