#pragma once
/// \file
/// The backward pass of RMSNorm, plainly.

#include <blackmamba/core/math.hpp>
#include <blackmamba/ops/rms_norm/backward.hpp>

namespace blackmamba {

template <Scalar T>
void rms_norm_backward_on(Reference const&, RmsNormBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  Index const rows = a.d_y.extent(0), D = a.d_y.extent(1);
  for (Index r = 0; r < rows; ++r) {
    auto const value = [&](Index i) { return a.residual ? a.residual(r, i) : widen(a.x(r, i)); };
    auto const d_normal = [&](Index i) { return widen(a.d_y(r, i)) * widen(a.weight(i)); };
    A sum_of_squares{0}, product{0};
    for (Index i = 0; i < D; ++i) {
      sum_of_squares += value(i) * value(i);
      product += d_normal(i) * value(i);
    }
    A const scale = A(1) / sqrt(sum_of_squares / A(D) + A(a.epsilon));
    A const along = product * scale / A(D);
    for (Index i = 0; i < D; ++i) {
      A const normal = value(i) * scale;
      if (a.d_weight) a.d_weight(i) += widen(a.d_y(r, i)) * normal;
      A total = (d_normal(i) - normal * along) * scale;
      if (a.d_residual) a.d_residual(r, i) = total += a.d_residual(r, i);
      if (a.d_x) a.d_x(r, i) = static_cast<T>(total);
    }
  }
}

}  // namespace blackmamba
