#pragma once
/// \file
/// The non-linearities on packs, each with its derivative; what the two have in common is computed once.

#include <blackmamba/core/simd_math.hpp>
#include <blackmamba/ops/activation/functions.hpp>

namespace blackmamba::detail {

/// f(x) and f'(x)
template <class A>
struct ValueAndSlope {
  simd::pack<A> value, slope;
};

/// σ(x) and σ(-x), neither of them as a difference.
template <class A>
struct BothSigmoids {
  simd::pack<A> of_x, of_minus_x;
  explicit BothSigmoids(simd::pack<A> x) {
    auto const e = simd::exp(-simd::elementary::absolute<A>(x));
    auto const larger = A(1) / (e + A(1)), smaller = e * larger;
    of_x = simd::select(x < A(0), smaller, larger);
    of_minus_x = simd::select(x < A(0), larger, smaller);
  }
};

/// Calls `loop(f)` with f mapping a pack of A to `kind` of it and the derivative: the choice is made once, outside of the loop.
template <class A, class Loop>
void with_pack_derivative(Activation kind, Loop&& loop) {
  using V = simd::pack<A>;
  using Both = ValueAndSlope<A>;
  switch (kind) {
    case Activation::identity:
      return loop([](V x) { return Both{x, simd::broadcast(A(1))}; });
    case Activation::relu:
      return loop([](V x) { return Both{simd::select(x > A(0), x, V{}), simd::select(x > A(0), simd::broadcast(A(1)), V{})}; });
    case Activation::relu_squared:
      return loop([](V x) { return Both{simd::select(x > A(0), x * x, V{}), simd::select(x > A(0), x + x, V{})}; });
    case Activation::silu:
      return loop([](V x) {
        BothSigmoids<A> const s{x};
        return Both{x * s.of_x, s.of_x * (x * s.of_minus_x + A(1))};
      });
    case Activation::gelu_erf:
      return loop([](V x) {
        V const distribution = A(0.5) * (A(1) + simd::erf(x * A(0.70710678118654752440084436210484903928L)));
        V const density = simd::exp_flushed(A(-0.5) * x * x) * A(0.39894228040143267793994605993438186848L);
        return Both{x * distribution, distribution + x * density};
      });
    case Activation::gelu_tanh:
      return loop([](V x) {
        constexpr auto twice_root = 1.59576912160573071175978423973752747390L, cubic = 0.044715L;
        BothSigmoids<A> const s{A(twice_root) * (x + A(cubic) * x * x * x)};
        V const slope = s.of_x * s.of_minus_x;
        V const full = s.of_x + x * slope * (A(twice_root) * (A(1) + A(3 * cubic) * x * x));
        return Both{x * s.of_x, simd::select(slope > A(0), full, s.of_x)};
      });
  }
}

}  // namespace blackmamba::detail
