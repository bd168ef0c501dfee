#pragma once
/// \file
/// Activations and gated units, plainly.

#include <blackmamba/ops/activation/activation.hpp>

namespace blackmamba {

template <Scalar T>
void activation_on(Reference const&, ActivationArgs<T> const& a) {
  for (Index r = 0; r < a.y.extent(0); ++r)
    for (Index i = 0; i < a.y.extent(1); ++i) a.y(r, i) = static_cast<T>(activate(a.kind, widen(a.x(r, i))));
}

template <Scalar T>
void gated_unit_on(Reference const&, GatedUnitArgs<T> const& a) {
  for (Index r = 0; r < a.y.extent(0); ++r)
    for (Index i = 0; i < a.y.extent(1); ++i)
      a.y(r, i) = static_cast<T>(activate(a.kind, widen(a.gate(r, i))) * widen(a.value(r, i)));
}

}  // namespace blackmamba
