#pragma once
/// \file
/// Gather and combine with rows over threads. Each row of the result has one writer, so nothing is shared.

#include <cstring>

#include <blackmamba/core/simd.hpp>
#include <blackmamba/ops/dispatch/reference.hpp>

namespace blackmamba {

template <Scalar T>
void gather_tokens_on(Cpu const& ctx, GatherArgs<T> const& a) {
  if (!a.x.contiguous_rows() || !a.y.contiguous_rows()) return gather_tokens_on(static_cast<Reference const&>(ctx), a);
  detail::check_order(a);
  Index const D = a.y.extent(1);
  parallel_ranges(ctx.threads(), a.y.extent(0), 1 + (1 << 15) / (D + 1), [&](Index begin, Index end) {
    for (Index p = begin; p < end; ++p)
      if (a.order(p) >= 0 && D > 0)
        std::memcpy(static_cast<void*>(&a.y(p, 0)), &a.x(a.order(p) / a.slots, 0), static_cast<std::size_t>(D) * sizeof(T));
  });
}

template <Scalar T>
requires simd::supported<T>
void combine_on(Cpu const& ctx, CombineArgs<T> const& a) {
  using A = accumulator_t<T>;
  constexpr Index W = simd::width<A>;

  if (!a.x.contiguous_rows() || !a.y.contiguous_rows()) return combine_on(static_cast<Reference const&>(ctx), a);
  detail::check_places(a);
  Index const D = a.y.extent(1), k = a.places.extent(1), whole = D / W * W, rest = D - whole;
  parallel_ranges(ctx.threads(), a.y.extent(0), 1 + (1 << 14) / (D * k + 1), [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t) {
      auto const total = [&](Index d, auto const& load_at) {
        simd::pack<A> sum{};
        for (Index s = 0; s < k; ++s)
          if (Index const place = a.places(t, s); place >= 0) sum += a.weights(t, s) * load_at(&a.x(place, d));
        return sum;
      };
      for (Index d = 0; d < whole; d += W) simd::store(&a.y(t, d), total(d, [](T const* p) { return simd::load(p); }));
      if (rest) simd::store_part(&a.y(t, whole), total(whole, [&](T const* p) { return simd::load_part(p, rest); }), rest);
    }
  });
}

}  // namespace blackmamba
