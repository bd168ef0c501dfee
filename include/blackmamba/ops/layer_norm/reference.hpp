#pragma once
/// \file
/// LayerNorm, plainly.

#include <blackmamba/core/math.hpp>
#include <blackmamba/ops/layer_norm/layer_norm.hpp>

namespace blackmamba {

template <Scalar T>
void layer_norm_on(Reference const&, LayerNormArgs<T> const& a) {
  using A = accumulator_t<T>;
  Index const rows = a.y.extent(0), D = a.y.extent(1);
  for (Index r = 0; r < rows; ++r) {
    auto const value = [&](Index i) { return a.residual ? a.residual(r, i) : widen(a.x(r, i)); };
    if (a.residual && a.x)
      for (Index i = 0; i < D; ++i) a.residual(r, i) += widen(a.x(r, i));
    A sum{0};
    for (Index i = 0; i < D; ++i) sum += value(i);
    A const centre = sum / A(D);
    // The centre is the mean but for roundings of the size of the mean; what is left over is found about the centre, where it is
    // of the size of the spread (Chan, Golub & LeVeque 1983).
    A rest{0}, squares{0};
    for (Index i = 0; i < D; ++i) {
      A const d = value(i) - centre;
      rest += d;
      squares += d * d;
    }
    A const shift = rest / A(D);
    A const scale = A(1) / sqrt((squares - rest * shift) / A(D) + A(a.epsilon));
    for (Index i = 0; i < D; ++i) {
      A const normal = (value(i) - centre - shift) * scale * widen(a.weight(i));
      a.y(r, i) = static_cast<T>(a.bias ? normal + widen(a.bias(i)) : normal);
    }
  }
}

}  // namespace blackmamba
