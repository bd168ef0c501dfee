#pragma once
/// \file
/// The non-linearities on packs.

#include <blackmamba/core/simd_math.hpp>
#include <blackmamba/ops/activation/functions.hpp>

namespace blackmamba::detail {

/// Calls `loop(f)` with f mapping a pack of A to `kind` of it: the choice is made once, outside of the loop.
template <class A, class Loop>
void with_pack_activation(Activation kind, Loop&& loop) {
  using V = simd::pack<A>;
  switch (kind) {
    case Activation::identity:
      return loop([](V x) { return x; });
    case Activation::relu:
      return loop([](V x) { return simd::select(x > A(0), x, V{}); });
    case Activation::relu_squared:
      return loop([](V x) { return simd::select(x > A(0), x * x, V{}); });
    case Activation::silu:
      return loop([](V x) { return simd::silu(x); });
    case Activation::gelu_erf:
      return loop([](V x) { return A(0.5) * x * (A(1) + simd::erf(x * A(0.70710678118654752440084436210484903928L))); });
    case Activation::gelu_tanh:
      return loop([](V x) {
        V const inner = A(0.79788456080286535587989211986876373695L) * (x + A(0.044715L) * x * x * x);
        return A(0.5) * x * (A(1) + simd::tanh(inner));
      });
  }
}

}  // namespace blackmamba::detail
