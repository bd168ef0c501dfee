#pragma once
/// \file
/// Gradients of gather and combine on packs, with tokens over threads. A place belongs to one token, so each row has one writer.

#include <blackmamba/core/simd.hpp>
#include <blackmamba/ops/dispatch/backward_reference.hpp>

namespace blackmamba {

template <Scalar T>
requires simd::supported<T>
void gather_tokens_backward_on(Cpu const& ctx, GatherBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  constexpr Index W = simd::width<A>;

  if (!a.d_y.contiguous_rows() || !a.d_x.contiguous_rows()) return gather_tokens_backward_on(static_cast<Reference const&>(ctx), a);
  detail::check_places("gather_tokens_backward", a.places);
  Index const D = a.d_x.extent(1), k = a.places.extent(1), whole = D / W * W, rest = D - whole;
  parallel_ranges(ctx.threads(), a.d_x.extent(0), 1 + (1 << 14) / (D * k + 1), [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t) {
      auto const total = [&](Index d, auto const& load_at) {
        simd::pack<A> sum{};
        for (Index s = 0; s < k; ++s)
          if (Index const place = a.places(t, s); place >= 0) sum += load_at(&a.d_y(place, d));
        return sum;
      };
      for (Index d = 0; d < whole; d += W) simd::store(&a.d_x(t, d), total(d, [](T const* p) { return simd::load(p); }));
      if (rest) simd::store_part(&a.d_x(t, whole), total(whole, [&](T const* p) { return simd::load_part(p, rest); }), rest);
    }
  });
}

template <Scalar T>
requires simd::supported<T>
void combine_backward_on(Cpu const& ctx, CombineBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  constexpr Index W = simd::width<A>;

  bool const fast = a.x.contiguous_rows() && a.d_y.contiguous_rows() && (!a.d_x || a.d_x.contiguous_rows());
  if (!fast) return combine_backward_on(static_cast<Reference const&>(ctx), a);
  detail::check_places("combine_backward", a.places);
  Index const D = a.d_y.extent(1), k = a.places.extent(1), whole = D / W * W, rest = D - whole;
  parallel_ranges(ctx.threads(), a.d_y.extent(0), 1 + (1 << 14) / (D * k + 1), [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t)
      for (Index s = 0; s < k; ++s) {
        Index const place = a.places(t, s);
        simd::pack<A> sum{};
        if (place >= 0) {
          A const weight = a.weights(t, s);
          // One pass for both results, an element read before it is written: d_x may be x.
          for (Index d = 0; d < whole; d += W) {
            simd::pack<A> const d_y = simd::load(&a.d_y(t, d));
            if (a.d_weights) sum = simd::multiply_add(simd::load(&a.x(place, d)), d_y, sum);
            if (a.d_x) simd::store(&a.d_x(place, d), weight * d_y);
          }
          if (rest) {
            simd::pack<A> const d_y = simd::load_part(&a.d_y(t, whole), rest);
            if (a.d_weights) sum = simd::multiply_add(simd::load_part(&a.x(place, whole), rest), d_y, sum);
            if (a.d_x) simd::store_part(&a.d_x(place, whole), weight * d_y, rest);
          }
        }
        if (a.d_weights) a.d_weights(t, s) = simd::sum(sum);
      }
  });
}

}  // namespace blackmamba
