#pragma once
/// \file
/// The derivatives of the scalar non-linearities, for any scalar that has the elementary functions. No difference of nearly equal
/// numbers is taken: 1 - sigmoid(x) is sigmoid(-x), and the tanh form of GELU is x · sigmoid of twice the argument of the tanh.

#include <blackmamba/ops/activation/functions.hpp>

namespace blackmamba {

/// d silu / dx = σ(x) (1 + x σ(-x))
template <class A>
A silu_derivative(A x) {
  return sigmoid(x) * (A(1) + x * sigmoid(-x));
}

/// d softplus / dx = σ(x)
template <class A>
A softplus_derivative(A x) {
  return sigmoid(x);
}

/// d gelu_erf / dx = Φ(x) + x φ(x), with φ the standard normal density.
template <class A>
A gelu_erf_derivative(A x) {
  return A(0.5) * (A(1) + erf(x * A(0.70710678118654752440084436210484903928L))) +
         x * exp(A(-0.5) * x * x) * A(0.39894228040143267793994605993438186848L);
}

/// d gelu_tanh / dx. With z = 2 sqrt(2/π) (x + 0.044715 x³), gelu_tanh is x σ(z), and this is σ(z) + x σ(z) σ(-z) dz/dx.
template <class A>
A gelu_tanh_derivative(A x) {
  constexpr auto twice_root = 1.59576912160573071175978423973752747390L, cubic = 0.044715L;
  A const z = A(twice_root) * (x + A(cubic) * x * x * x);
  A const s = sigmoid(z), slope = s * sigmoid(-z);
  // Where the slope is 0, far out, x dz/dx may be infinite.
  return slope > A(0) ? s + x * slope * (A(twice_root) * (A(1) + A(3 * cubic) * x * x)) : s;
}

/// d kind(x) / dx, in the accumulator scalar; 0 for relu at 0, where it has none.
template <class A>
A activation_derivative(Activation kind, A x) {
  switch (kind) {
    case Activation::identity:
      return A(1);
    case Activation::relu:
      return x > A(0) ? A(1) : A(0);
    case Activation::relu_squared:
      return x > A(0) ? x + x : A(0);
    case Activation::silu:
      return silu_derivative(x);
    case Activation::gelu_erf:
      return gelu_erf_derivative(x);
    case Activation::gelu_tanh:
      return gelu_tanh_derivative(x);
  }
  return A(1);
}

}  // namespace blackmamba
