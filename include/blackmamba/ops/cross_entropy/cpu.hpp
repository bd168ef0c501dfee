#pragma once
/// \file
/// Cross-entropy on packs, rows over threads.

#include <blackmamba/ops/cross_entropy/cross_entropy.hpp>
#include <blackmamba/ops/softmax/packs.hpp>

namespace blackmamba {

template <Scalar T>
requires simd::supported<T>
void cross_entropy_on(Cpu const& ctx, CrossEntropyArgs<T> const& a) {
  using A = accumulator_t<T>;
  if (!a.logits.contiguous_rows()) return cross_entropy_on(static_cast<Reference const&>(ctx), a);
  Index const rows = a.logits.extent(0), V = a.logits.extent(1);
  detail::check_targets("cross_entropy", a.targets, a.ignore_index, V);
  parallel_ranges(ctx.threads(), rows, 1 + (1 << 13) / (V + 1), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      Token const target = a.targets[r];
      if (target == a.ignore_index) {
        a.losses[r] = A(0);
        continue;
      }
      auto const [max, rest] = detail::row_sum(&a.logits(r, 0), V);
      a.losses[r] = detail::row_loss(max, rest, widen(a.logits(r, target)), A(a.z_coefficient));
    }
  });
}

}  // namespace blackmamba
