#pragma once
/// \file
/// Cross-entropy, plainly.

#include <blackmamba/ops/cross_entropy/cross_entropy.hpp>
#include <blackmamba/ops/softmax/row.hpp>

namespace blackmamba {

template <Scalar T>
void cross_entropy_on(Reference const&, CrossEntropyArgs<T> const& a) {
  using A = accumulator_t<T>;
  detail::check_targets("cross_entropy", a.targets, a.ignore_index, a.logits.extent(1));
  for (Index r = 0; r < a.logits.extent(0); ++r) {
    Token const target = a.targets[r];
    if (target == a.ignore_index) {
      a.losses[r] = A(0);
      continue;
    }
    auto const [max, rest] = detail::row_sum(a.logits[r]);
    a.losses[r] = detail::row_loss(max, rest, widen(a.logits(r, target)), A(a.z_coefficient));
  }
}

}  // namespace blackmamba
