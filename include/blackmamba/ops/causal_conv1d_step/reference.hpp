#pragma once
/// \file
/// One step of the causal convolution, plainly.

#include <blackmamba/ops/activation/functions.hpp>
#include <blackmamba/ops/causal_conv1d_step/causal_conv1d_step.hpp>

namespace blackmamba {

template <Scalar T>
void causal_conv1d_step_on(Reference const&, CausalConv1dStepArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  Index const batch = a.x.extent(0), D = a.x.extent(1), before = a.weight.extent(1) - 1;
  for (Index b = 0; b < batch; ++b)
    for (Index d = 0; d < D; ++d) {
      T const newest = a.x(b, d);
      Acc sum = a.bias ? widen(a.bias[d]) : Acc(0);
      for (Index k = 0; k < before; ++k) {
        sum += widen(a.weight(d, k)) * widen(a.state(b, k, d));
        a.state(b, k, d) = k + 1 < before ? a.state(b, k + 1, d) : newest;
      }
      sum += widen(a.weight(d, before)) * widen(newest);
      a.y(b, d) = static_cast<T>(a.silu ? silu(sum) : sum);
    }
}

}  // namespace blackmamba
