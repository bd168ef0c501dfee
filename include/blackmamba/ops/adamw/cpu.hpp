#pragma once
/// \file
/// AdamW on packs, pieces of the array over threads.

#include <algorithm>

#include <blackmamba/core/math.hpp>
#include <blackmamba/core/simd.hpp>
#include <blackmamba/ops/adamw/reference.hpp>
#include <blackmamba/ops/rms_norm/backward_packs.hpp>

namespace blackmamba {

namespace detail {

inline simd::pack<float> adamw_root(simd::pack<float> x) {
#if defined(__AVX2__)
  return __builtin_bit_cast(simd::pack<float>, _mm256_sqrt_ps(__builtin_bit_cast(__m256, x)));
#else
  for (int i = 0; i < simd::width<float>; ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}
inline simd::pack<double> adamw_root(simd::pack<double> x) {
#if defined(__AVX2__)
  return __builtin_bit_cast(simd::pack<double>, _mm256_sqrt_pd(__builtin_bit_cast(__m256d, x)));
#else
  for (int i = 0; i < simd::width<double>; ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

/// Elements [begin, end), all of one segment.
template <bool decays, Scalar T>
void adamw_range(AdamWArgs<T> const& a, AdamWFactors<accumulator_t<T>> const& f, Index begin, Index end) {
  using A = accumulator_t<T>;
  using V = simd::pack<A>;
  A* const master = a.master.data() + begin;
  A const* const gradient = a.gradient.data() + begin;
  A* const first = a.first.data() + begin;
  A* const second = a.second.data() + begin;
  T* const weights = a.weights ? a.weights.data() + begin : nullptr;
  V const rest1 = simd::broadcast(f.rest1), beta2 = simd::broadcast(f.beta2), correction = simd::broadcast(f.correction),
          epsilon = simd::broadcast(f.epsilon), decay = simd::broadcast(f.decay);
  for_packs<A>(end - begin, [&](auto at) {
    V const g = at.load(gradient) * f.scale;
    V const m = simd::multiply_add(rest1, g, at.load(first) * f.beta1);
    V const v = simd::multiply_add(beta2, at.load(second), g * g * f.rest2);
    at.store(first, m);
    at.store(second, v);
    V const w = at.load(master);
    V change = m * f.rate / simd::multiply_add(adamw_root(v), correction, epsilon);
    if constexpr (decays) change = simd::multiply_add(decay, w, change);
    V const next = w - change;
    at.store(master, next);
    if (weights) at.store(weights, next);
  });
}

}  // namespace detail

template <Scalar T>
requires simd::supported<T>
void adamw_on(Cpu const& ctx, AdamWArgs<T> const& a) {
  bool const fast = a.master.contiguous() && a.gradient.contiguous() && a.first.contiguous() && a.second.contiguous() &&
                    (!a.weights || a.weights.contiguous()) && a.segments.contiguous();
  if (!fast) return adamw_on(static_cast<Reference const&>(ctx), a);

  bool applied;
  auto const f = detail::adamw_factors(a, applied);
  if (!applied) return;
  AdamWSegment const* const last = a.segments.data() + a.segments.extent(0);
  constexpr Index grain = Index{1} << 14;
  parallel_ranges(ctx.threads(), a.master.extent(0), grain, [&](Index begin, Index end) {
    auto const* segment =
        std::partition_point(a.segments.data(), last, [&](AdamWSegment const& s) { return s.offset + s.elements <= begin; });
    for (; segment != last && segment->offset < end; ++segment) {
      Index const from = std::max(begin, segment->offset), to = std::min(end, segment->offset + segment->elements);
      if (segment->decays && f.decays)
        detail::adamw_range<true>(a, f, from, to);
      else
        detail::adamw_range<false>(a, f, from, to);
    }
  });
}

}  // namespace blackmamba
