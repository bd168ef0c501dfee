#pragma once
/// \file
/// The backward passes of activations and gated units, plainly.

#include <blackmamba/ops/activation/backward.hpp>

namespace blackmamba {

template <Scalar T>
void activation_backward_on(Reference const&, ActivationBackwardArgs<T> const& a) {
  for (Index r = 0; r < a.x.extent(0); ++r)
    for (Index i = 0; i < a.x.extent(1); ++i)
      a.d_x(r, i) = static_cast<T>(widen(a.d_y(r, i)) * activation_derivative(a.kind, widen(a.x(r, i))));
}

template <Scalar T>
void gated_unit_backward_on(Reference const&, GatedUnitBackwardArgs<T> const& a) {
  for (Index r = 0; r < a.gate.extent(0); ++r)
    for (Index i = 0; i < a.gate.extent(1); ++i) {
      // Read before anything is written: a gradient may lie where an input lies.
      auto const gate = widen(a.gate(r, i)), value = widen(a.value(r, i)), d_y = widen(a.d_y(r, i));
      if (a.d_gate) a.d_gate(r, i) = static_cast<T>(d_y * value * activation_derivative(a.kind, gate));
      if (a.d_value) a.d_value(r, i) = static_cast<T>(d_y * activate(a.kind, gate));
    }
}

}  // namespace blackmamba
