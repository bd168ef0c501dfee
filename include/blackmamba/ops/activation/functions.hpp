#pragma once
/// \file
/// The scalar non-linearities, for any scalar that has the elementary functions, and the run-time name of each.
///
/// Sources: GELU Hendrycks & Gimpel 2016, arXiv:1606.08415; SiLU Elfwing et al. 2017, arXiv:1702.03118;
/// squared ReLU So et al. 2021, arXiv:2109.08668; gated units Shazeer 2020, arXiv:2002.05202.

#include <blackmamba/core/math.hpp>
#include <blackmamba/core/scalar.hpp>

namespace blackmamba {

/// 1 / (1 + e^-x), without overflow at either end.
template <class A>
A sigmoid(A x) {
  if (x < A(0)) {
    A const e = exp(x);
    return e / (A(1) + e);
  }
  return A(1) / (A(1) + exp(-x));
}

/// x · sigmoid(x)
template <class A>
A silu(A x) {
  return x * sigmoid(x);
}

/// log(1 + e^x), as max(x, 0) + log1p(e^-|x|): no overflow, no cancellation.
template <class A>
A softplus(A x) {
  return x > A(0) ? x + log1p(exp(-x)) : log1p(exp(x));
}

/// x Φ(x) with Φ the standard normal distribution function, by erf.
template <class A>
A gelu_erf(A x) {
  return A(0.5) * x * (A(1) + erf(x * A(0.70710678118654752440084436210484903928L)));
}

/// The tanh approximation of GELU.
template <class A>
A gelu_tanh(A x) {
  A const inner = A(0.79788456080286535587989211986876373695L) * (x + A(0.044715L) * x * x * x);
  return A(0.5) * x * (A(1) + tanh(inner));
}

/// A non-linearity chosen at run time: kernels switch on it, layers fix it in their type.
enum class Activation { identity, relu, relu_squared, silu, gelu_erf, gelu_tanh };

/// Its name on command lines and in reports.
constexpr char const* to_string(Activation kind) {
  switch (kind) {
    case Activation::identity:
      return "identity";
    case Activation::relu:
      return "relu";
    case Activation::relu_squared:
      return "relu_squared";
    case Activation::silu:
      return "silu";
    case Activation::gelu_erf:
      return "gelu_erf";
    case Activation::gelu_tanh:
      return "gelu_tanh";
  }
  return "?";
}

/// kind(x), in the accumulator scalar.
template <class A>
A activate(Activation kind, A x) {
  switch (kind) {
    case Activation::identity:
      return x;
    case Activation::relu:
      return x > A(0) ? x : A(0);
    case Activation::relu_squared:
      return x > A(0) ? x * x : A(0);
    case Activation::silu:
      return silu(x);
    case Activation::gelu_erf:
      return gelu_erf(x);
    case Activation::gelu_tanh:
      return gelu_tanh(x);
  }
  return x;
}

}  // namespace blackmamba
