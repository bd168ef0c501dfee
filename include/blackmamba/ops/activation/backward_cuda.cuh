#pragma once
/// \file
/// The backward passes of activations and gated units on a GPU.

#include <blackmamba/ops/activation/backward.hpp>
#include <blackmamba/ops/activation/cuda.cuh>

namespace blackmamba {

namespace detail {

template <class Kind>
struct ActivationBackwardElement {
  template <class T>
  __device__ __forceinline__ void operator()(T x, T d_y, T& d_x) const {
    d_x = device_round<T>(device_widen(d_y) * device_activation_derivative(Kind::value, device_widen(x)));
  }
};

template <class Kind>
struct GatedBackwardElement {
  template <class T>
  __device__ __forceinline__ void operator()(T gate, T value, T d_y, T& d_gate, T& d_value) const {
    auto const both = device_activated(Kind::value, device_widen(gate));
    auto const d = device_widen(d_y);
    d_gate = device_round<T>(d * device_widen(value) * both.slope);
    d_value = device_round<T>(d * both.value);
  }
};

}  // namespace detail

/// Fast where rows are contiguous and aligned to 16 bytes, or the whole is contiguous.
template <Scalar T>
void activation_backward_on(Cuda const& ctx, ActivationBackwardArgs<T> const& a) {
  detail::map_matrices(ctx, "activation_backward", a.d_x.shape(), detail::ActivationMap<detail::ActivationBackwardElement>{a.kind},
                       a.x, a.d_y, a.d_x);
}

/// As `activation_backward`.
template <Scalar T>
void gated_unit_backward_on(Cuda const& ctx, GatedUnitBackwardArgs<T> const& a) {
  if (!a.d_gate && !a.d_value) return;
  detail::map_matrices(ctx, "gated_unit_backward", a.gate.shape(), detail::ActivationMap<detail::GatedBackwardElement>{a.kind},
                       a.gate, a.value, a.d_y, a.d_gate, a.d_value);
}

}  // namespace blackmamba
