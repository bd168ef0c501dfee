#pragma once
/// \file
/// The elementary functions of routing rules, for one token's thread on a device as for the host.

#include <blackmamba/core/config.hpp>
#include <blackmamba/core/math.hpp>

#if defined(__CUDACC__)
// A rule for a scalar of the host alone, long double or a dual number, is instantiated for the host alone and calls its functions.
#pragma nv_diag_suppress 20208
#define BLACKMAMBA_ANY_SCALAR _Pragma("nv_exec_check_disable")
#else
#define BLACKMAMBA_ANY_SCALAR
#endif

namespace blackmamba::detail {

/// e^x. `Exact`, which on the host means nothing, asks a device for the float nearest to e^x in all but few cases, as C libraries
/// give it: then scores that are compared are the same on both.
BLACKMAMBA_ANY_SCALAR
template <bool Exact = false, class A>
BLACKMAMBA_HOST_DEVICE A gate_exp(A x) {
#if defined(__CUDA_ARCH__)
  if constexpr (Exact) return static_cast<A>(::exp(static_cast<double>(x)));
#endif
  return exp(x);
}

BLACKMAMBA_ANY_SCALAR
template <class A>
BLACKMAMBA_HOST_DEVICE A gate_log(A x) {
  return log(x);
}

/// σ(x) = 1 / (1 + e^-x), without overflow at either end.
BLACKMAMBA_ANY_SCALAR
template <bool Exact = false, class A>
BLACKMAMBA_HOST_DEVICE A gate_sigmoid(A x) {
  if (x < A(0)) {
    A const e = gate_exp<Exact>(x);
    return e / (A(1) + e);
  }
  return A(1) / (A(1) + gate_exp<Exact>(-x));
}

/// log σ(x) = -(max(-x, 0) + log1p(e^-|x|)): no overflow, no cancellation.
BLACKMAMBA_ANY_SCALAR
template <class A>
BLACKMAMBA_HOST_DEVICE A gate_log_sigmoid(A x) {
  return -(x < A(0) ? -x + log1p(gate_exp(x)) : log1p(gate_exp(-x)));
}

/// Whether x is neither infinite nor NaN.
template <class A>
BLACKMAMBA_HOST_DEVICE bool gate_finite(A x) {
  return x - x == A(0);
}

}  // namespace blackmamba::detail
