#pragma once
/// \file
/// The backward pass of cross-entropy, plainly.

#include <blackmamba/ops/cross_entropy/backward.hpp>
#include <blackmamba/ops/softmax/row.hpp>

namespace blackmamba {

template <Scalar T>
void cross_entropy_backward_on(Reference const&, CrossEntropyBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  Index const rows = a.logits.extent(0), V = a.logits.extent(1);
  detail::check_targets("cross_entropy_backward", a.targets, a.ignore_index, V);
  for (Index r = 0; r < rows; ++r) {
    Token const target = a.targets[r];
    if (target == a.ignore_index) {
      for (Index v = 0; v < V; ++v) a.d_logits(r, v) = static_cast<T>(A(0));
      continue;
    }
    auto const [max, rest] = detail::row_sum(a.logits[r]);
    detail::CrossEntropyGradient<A> const d{max, rest, widen(a.logits(r, target)), A(a.scale), A(a.z_coefficient)};
    for (Index v = 0; v < V; ++v) a.d_logits(r, v) = static_cast<T>(exp(widen(a.logits(r, v)) - max) * d.factor);
    a.d_logits(r, target) = static_cast<T>(d.at_target);
  }
}

}  // namespace blackmamba
