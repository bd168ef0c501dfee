#pragma once
/// \file
/// The causal convolution, plainly.

#include <blackmamba/ops/activation/functions.hpp>
#include <blackmamba/ops/causal_conv1d/causal_conv1d.hpp>

namespace blackmamba {

namespace detail {

/// Writes the last K - 1 inputs of every sequence. Oldest first, so that a state may be shifted in place.
template <Scalar T>
void leave_conv_state(CausalConv1dArgs<T> const& a, Sequences const& sequences) {
  Index const before = a.last_state.extent(1);
  for (Index s = 0; s < sequences.count(); ++s) {
    auto const [b, begin, end] = sequences[s];
    for (Index i = 0; i < before; ++i) {
      Index const t = end - before + i;
      for (Index d = 0; d < a.x.extent(2); ++d)
        a.last_state(s, i, d) = t >= begin        ? a.x(b, t, d)
                                : a.initial_state ? a.initial_state(s, before + t - begin, d)
                                                  : static_cast<T>(accumulator_t<T>(0));
    }
  }
}

}  // namespace detail

template <Scalar T>
void causal_conv1d_on(Reference const&, CausalConv1dArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  Index const D = a.x.extent(2), K = a.weight.extent(1);
  Sequences const sequences{"causal_conv1d", a.offsets, a.x.extent(0), a.x.extent(1)};
  for (Index s = 0; s < sequences.count(); ++s) {
    auto const [b, begin, end] = sequences[s];
    for (Index t = begin; t < end; ++t)
      for (Index d = 0; d < D; ++d) {
        Acc sum = a.bias ? widen(a.bias[d]) : Acc(0);
        for (Index k = 0; k < K; ++k) {
          Index const from = t - (K - 1) + k;
          if (from >= begin)
            sum += widen(a.weight(d, k)) * widen(a.x(b, from, d));
          else if (a.initial_state)
            sum += widen(a.weight(d, k)) * widen(a.initial_state(s, K - 1 + from - begin, d));
        }
        a.y(b, t, d) = static_cast<T>(a.silu ? silu(sum) : sum);
      }
  }
  if (a.last_state) detail::leave_conv_state(a, sequences);
}

}  // namespace blackmamba
