#pragma once
/// \file
/// The non-linearities and their derivatives in device code, of float and double.
///
/// The double versions are the formulas of functions.hpp and derivatives.hpp. Those of float take one exponential and one
/// reciprocal at most, of the special-function unit; relative to the exact value they are within 1e-6 for |x| ≤ 4, beyond that
/// within 2e-7 |x| to the right of 0 and within 1e-7 (1 + x²) to the left, where only the tail is left of the function. Infinities
/// and NaN give what the formulas give.

#include <blackmamba/core/cuda/math.cuh>
#include <blackmamba/ops/activation/functions.hpp>

namespace blackmamba::detail {

/// σ(x) and σ(-x), neither of them as a difference.
template <class A>
struct DeviceSigmoids {
  A of_x, of_minus_x;

  __device__ explicit DeviceSigmoids(A x) {
    A e, larger;
    if constexpr (std::is_same_v<A, float>)
      e = device_exp2(-1.44269504f * fabsf(x)), larger = device_reciprocal(1.0f + e);
    else
      e = ::exp(-::fabs(x)), larger = 1 / (1 + e);
    A const smaller = e * larger;
    of_x = x < A(0) ? smaller : larger;
    of_minus_x = x < A(0) ? larger : smaller;
  }
};

/// Φ(x) and the density φ(x) of the standard normal distribution. In float Φ(-u) = e^(-u²/2) t Q(t) for u ≥ 0, t = 1 / (1 + 0.31
/// u), with the polynomial Q that makes the largest relative error on [0, 13.5] smallest, 1.6e-7.
__device__ inline float2 device_normal(float x) {
  float const u = fabsf(x), e = device_exp2(-0.72134752f * (u * u)), t = device_reciprocal(fmaf(0.31f, u, 1.0f));
  float q = 0.0358026214f;
  q = fmaf(q, t, -0.1414325833f);
  q = fmaf(q, t, 0.1547533721f);
  q = fmaf(q, t, -0.0145946639f);
  q = fmaf(q, t, 0.1099350452f);
  q = fmaf(q, t, 0.1078282297f);
  q = fmaf(q, t, 0.1240504459f);
  q = fmaf(q, t, 0.1236576065f);
  float const tail = q * t * e;
  return {x > 0.0f ? 1.0f - tail : tail, 0.398942280f * e};
}
__device__ inline double2 device_normal(double x) {
  return {0.5 * ::erfc(x * -0.70710678118654752440), ::exp(-0.5 * x * x) * 0.39894228040143267794};
}

/// kind(x)
template <class A>
__device__ __forceinline__ A device_activate(Activation kind, A x) {
  switch (kind) {
    case Activation::identity:
      return x;
    case Activation::relu:
      return x > A(0) ? x : A(0);
    case Activation::relu_squared:
      return x > A(0) ? x * x : A(0);
    case Activation::silu:
      return device_silu(x);
    case Activation::gelu_erf:
      return x * device_normal(x).x;
    case Activation::gelu_tanh:  // 1 + tanh(z) = 2 σ(2z)
      return x * device_sigmoid(A(1.59576912160573071176) * (x + A(0.044715) * x * x * x));
  }
  return x;
}

template <class A>
struct DeviceActivated {
  A value, slope;
};

/// kind(x) and its derivative at x; of what is not used nothing is computed.
template <class A>
__device__ __forceinline__ DeviceActivated<A> device_activated(Activation kind, A x) {
  switch (kind) {
    case Activation::identity:
      return {x, A(1)};
    case Activation::relu:
      return {x > A(0) ? x : A(0), x > A(0) ? A(1) : A(0)};
    case Activation::relu_squared:
      return {x > A(0) ? x * x : A(0), x > A(0) ? x + x : A(0)};
    case Activation::silu: {
      DeviceSigmoids<A> const s{x};
      return {x * s.of_x, s.of_x * (A(1) + x * s.of_minus_x)};
    }
    case Activation::gelu_erf: {
      auto const normal = device_normal(x);
      return {x * normal.x, normal.x + x * normal.y};
    }
    case Activation::gelu_tanh: {
      constexpr A twice_root = A(1.59576912160573071176), cubic = A(0.044715);
      DeviceSigmoids<A> const s{twice_root * (x + cubic * x * x * x)};
      A const slope = s.of_x * s.of_minus_x;
      // Where the slope is 0, far out, x dz/dx may be infinite.
      return {x * s.of_x, slope > A(0) ? s.of_x + x * slope * (twice_root * (A(1) + 3 * cubic * x * x)) : s.of_x};
    }
  }
  return {x, A(1)};
}

/// d kind(x) / dx, 0 for relu at 0.
template <class A>
__device__ __forceinline__ A device_activation_derivative(Activation kind, A x) {
  return device_activated(kind, x).slope;
}

/// A kind as a type: `kind.value` is a constant wherever it is read.
template <Activation Kind>
struct ActivationConstant {
  static constexpr Activation value = Kind;
};

/// Calls `body` with the kind as an `ActivationConstant`: on the host to choose a kernel, on the device to choose before a loop.
#pragma nv_exec_check_disable
template <class Body>
BLACKMAMBA_HOST_DEVICE void with_activation(Activation kind, Body const& body) {
  switch (kind) {
    case Activation::identity:
      return body(ActivationConstant<Activation::identity>{});
    case Activation::relu:
      return body(ActivationConstant<Activation::relu>{});
    case Activation::relu_squared:
      return body(ActivationConstant<Activation::relu_squared>{});
    case Activation::silu:
      return body(ActivationConstant<Activation::silu>{});
    case Activation::gelu_erf:
      return body(ActivationConstant<Activation::gelu_erf>{});
    case Activation::gelu_tanh:
      return body(ActivationConstant<Activation::gelu_tanh>{});
  }
}

}  // namespace blackmamba::detail
