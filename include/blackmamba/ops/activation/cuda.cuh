#pragma once
/// \file
/// Activations and gated units on a GPU.

#include <blackmamba/core/cuda/elementwise.cuh>
#include <blackmamba/ops/activation/activation.hpp>
#include <blackmamba/ops/activation/device.cuh>

namespace blackmamba {

namespace detail {

/// Chooses the function once for all the lanes of a thread.
template <template <class> class Element>
struct ActivationMap {
  Activation kind;

  template <class Body>
  __device__ __forceinline__ void choose(Body const& body) const {
    with_activation(kind, [&](auto constant) { body(Element<decltype(constant)>{}); });
  }
};

template <class Kind>
struct ActivationElement {
  template <class T>
  __device__ __forceinline__ void operator()(T x, T& y) const {
    y = device_round<T>(device_activate(Kind::value, device_widen(x)));
  }
};

template <class Kind>
struct GatedElement {
  template <class T>
  __device__ __forceinline__ void operator()(T gate, T value, T& y) const {
    y = device_round<T>(device_activate(Kind::value, device_widen(gate)) * device_widen(value));
  }
};

}  // namespace detail

/// Fast where rows are contiguous and aligned to 16 bytes, or the whole is contiguous.
template <Scalar T>
void activation_on(Cuda const& ctx, ActivationArgs<T> const& a) {
  detail::map_matrices(ctx, "activation", a.y.shape(), detail::ActivationMap<detail::ActivationElement>{a.kind}, a.x, a.y);
}

/// As `activation`.
template <Scalar T>
void gated_unit_on(Cuda const& ctx, GatedUnitArgs<T> const& a) {
  detail::map_matrices(ctx, "gated_unit", a.y.shape(), detail::ActivationMap<detail::GatedElement>{a.kind}, a.gate, a.value, a.y);
}

}  // namespace blackmamba
