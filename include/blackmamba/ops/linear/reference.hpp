#pragma once
/// \file
/// The linear map, plainly.

#include <blackmamba/ops/linear/linear.hpp>

namespace blackmamba {

template <Scalar T>
void linear_on(Reference const&, LinearArgs<T> const& a) {
  using A = accumulator_t<T>;
  Index const M = a.x.extent(0), K = a.x.extent(1), N = a.weight.extent(0);
  for (Index m = 0; m < M; ++m)
    for (Index n = 0; n < N; ++n) {
      A sum{0};
      for (Index k = 0; k < K; ++k) sum += widen(a.x(m, k)) * widen(a.weight(n, k));
      if (a.bias) sum += widen(a.bias(n));
      a.y(m, n) = static_cast<T>(sum);
    }
}

}  // namespace blackmamba
