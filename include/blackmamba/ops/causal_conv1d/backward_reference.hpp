#pragma once
/// \file
/// The gradient of the causal convolution, plainly.

#include <algorithm>

#include <blackmamba/ops/activation/functions.hpp>
#include <blackmamba/ops/causal_conv1d/backward.hpp>

namespace blackmamba {

template <Scalar T>
void causal_conv1d_backward_on(Reference const& ctx, CausalConv1dBackwardArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  Index const D = a.x.extent(2), K = a.weight.extent(1), before = K - 1;
  Sequences const sequences{"causal_conv1d_backward", a.offsets, a.x.extent(0), a.x.extent(1)};
  Index longest = 0;
  for (Index s = 0; s < sequences.count(); ++s) longest = std::max(longest, sequences[s].end - sequences[s].begin);

  // Input i of a sequence: the initial state for i < K - 1, x after that.
  auto const scope = ctx.scratch().scope();
  auto const d_input = ctx.scratch().template take<Acc>(Shape<1>{before + longest});
  auto const d_weight = ctx.scratch().template take<Acc>(Shape<1>{K});
  for (Index s = 0; s < sequences.count(); ++s) {
    auto const [b, begin, end] = sequences[s];
    Index const length = end - begin;
    for (Index d = 0; d < D; ++d) {
      auto const input = [&, b = b, begin = begin](Index i) {
        if (i >= before) return widen(a.x(b, begin + i - before, d));
        return a.initial_state ? widen(a.initial_state(s, i, d)) : Acc(0);
      };
      Acc d_bias{0};
      for (Index k = 0; k < K; ++k) d_weight[k] = Acc(0);
      for (Index i = 0; i < before + length; ++i)
        d_input[i] = a.d_last_state && i >= length ? a.d_last_state(s, i - length, d) : Acc(0);
      for (Index t = 0; t < length; ++t) {
        Acc sum = a.bias ? widen(a.bias[d]) : Acc(0);
        for (Index k = 0; k < K; ++k) sum += widen(a.weight(d, k)) * input(t + k);
        Acc g = widen(a.d_y(b, begin + t, d));
        if (a.silu) {
          Acc const gate = sigmoid(sum);
          g *= gate * (Acc(1) + sum * (Acc(1) - gate));
        }
        for (Index k = 0; k < K; ++k) {
          d_input[t + k] += widen(a.weight(d, k)) * g;
          d_weight[k] += g * input(t + k);
        }
        d_bias += g;
      }
      if (a.d_initial_state)
        for (Index i = 0; i < before; ++i) a.d_initial_state(s, i, d) = d_input[i];
      if (a.d_x)
        for (Index t = 0; t < length; ++t) a.d_x(b, begin + t, d) = static_cast<T>(d_input[before + t]);
      if (a.d_weight)
        for (Index k = 0; k < K; ++k) a.d_weight(d, k) += d_weight[k];
      if (a.d_bias) a.d_bias[d] += d_bias;
    }
  }
}

}  // namespace blackmamba
