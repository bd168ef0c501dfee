#pragma once
/// \file
/// The backward pass of LayerNorm, plainly.

#include <blackmamba/core/math.hpp>
#include <blackmamba/ops/layer_norm/backward.hpp>

namespace blackmamba {

template <Scalar T>
void layer_norm_backward_on(Reference const&, LayerNormBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  Index const rows = a.d_y.extent(0), D = a.d_y.extent(1);
  for (Index r = 0; r < rows; ++r) {
    auto const value = [&](Index i) { return a.residual ? a.residual(r, i) : widen(a.x(r, i)); };
    auto const d_normal = [&](Index i) { return widen(a.d_y(r, i)) * widen(a.weight(i)); };
    A sum{0};
    for (Index i = 0; i < D; ++i) sum += value(i);
    A const centre = sum / A(D);
    // As in the forward pass, what the centre misses of the mean is found about the centre.
    A rest{0}, squares{0}, d_sum{0}, product{0};
    for (Index i = 0; i < D; ++i) {
      A const d = value(i) - centre;
      rest += d;
      squares += d * d;
      d_sum += d_normal(i);
      product += d_normal(i) * d;
    }
    A const shift = rest / A(D);
    A const scale = A(1) / sqrt((squares - rest * shift) / A(D) + A(a.epsilon));
    A const d_mean = d_sum / A(D), along = (product - d_sum * shift) * scale / A(D);
    for (Index i = 0; i < D; ++i) {
      A const normal = (value(i) - centre - shift) * scale;
      if (a.d_weight) a.d_weight(i) += widen(a.d_y(r, i)) * normal;
      if (a.d_bias) a.d_bias(i) += widen(a.d_y(r, i));
      A total = (d_normal(i) - d_mean - normal * along) * scale;
      if (a.d_residual) a.d_residual(r, i) = total += a.d_residual(r, i);
      if (a.d_x) a.d_x(r, i) = static_cast<T>(total);
    }
  }
}

}  // namespace blackmamba
