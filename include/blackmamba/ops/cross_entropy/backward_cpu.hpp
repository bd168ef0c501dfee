#pragma once
/// \file
/// The backward pass of cross-entropy on packs, rows over threads.

#include <algorithm>

#include <blackmamba/ops/cross_entropy/backward_reference.hpp>
#include <blackmamba/ops/softmax/packs.hpp>

namespace blackmamba {

template <Scalar T>
requires simd::supported<T>
void cross_entropy_backward_on(Cpu const& ctx, CrossEntropyBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  constexpr Index W = simd::width<A>;
  if (!a.logits.contiguous_rows() || !a.d_logits.contiguous_rows())
    return cross_entropy_backward_on(static_cast<Reference const&>(ctx), a);
  Index const rows = a.logits.extent(0), V = a.logits.extent(1), whole = V / W * W, tail = V - whole;
  detail::check_targets("cross_entropy_backward", a.targets, a.ignore_index, V);
  parallel_ranges(ctx.threads(), V == 0 ? 0 : rows, 1 + (1 << 13) / (V + 1), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      T const* const logits = &a.logits(r, 0);
      T* const d_logits = &a.d_logits(r, 0);
      Token const target = a.targets[r];
      if (target == a.ignore_index) {
        std::fill_n(d_logits, V, static_cast<T>(A(0)));
        continue;
      }
      auto const row = detail::row_sum(logits, V);
      detail::CrossEntropyGradient<A> const d{row.max, row.rest, widen(logits[target]), A(a.scale), A(a.z_coefficient)};
      auto const gradient = [&](simd::pack<A> x) { return simd::exp_flushed(x - row.max) * d.factor; };
      for (Index v = 0; v < whole; v += W) simd::store(d_logits + v, gradient(simd::load(logits + v)));
      if (tail) simd::store_part(d_logits + whole, gradient(simd::load_part(logits + whole, tail)), tail);
      d_logits[target] = static_cast<T>(d.at_target);
    }
  });
}

}  // namespace blackmamba
