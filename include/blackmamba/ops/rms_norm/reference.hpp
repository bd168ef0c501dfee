#pragma once
/// \file
/// RMSNorm, plainly.

#include <blackmamba/core/math.hpp>
#include <blackmamba/ops/rms_norm/rms_norm.hpp>

namespace blackmamba {

template <Scalar T>
void rms_norm_on(Reference const&, RmsNormArgs<T> const& a) {
  using A = accumulator_t<T>;
  Index const rows = a.y.extent(0), D = a.y.extent(1);
  for (Index r = 0; r < rows; ++r) {
    auto const value = [&](Index i) { return a.residual ? a.residual(r, i) : widen(a.x(r, i)); };
    if (a.residual && a.x)
      for (Index i = 0; i < D; ++i) a.residual(r, i) += widen(a.x(r, i));
    A sum_of_squares{0};
    for (Index i = 0; i < D; ++i) sum_of_squares += value(i) * value(i);
    A const scale = A(1) / sqrt(sum_of_squares / A(D) + A(a.epsilon));
    for (Index i = 0; i < D; ++i) a.y(r, i) = static_cast<T>(value(i) * scale * widen(a.weight(i)));
  }
}

}  // namespace blackmamba
