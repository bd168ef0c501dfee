#pragma once
/// \file
/// The backward pass of the linear map, plainly.

#include <blackmamba/ops/linear/backward.hpp>

namespace blackmamba {

template <Scalar T>
void linear_backward_on(Reference const&, LinearBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  Index const M = a.x.extent(0), K = a.x.extent(1), N = a.weight.extent(0);
  if (a.d_weight)
    for (Index n = 0; n < N; ++n)
      for (Index k = 0; k < K; ++k) {
        A sum{0};
        for (Index m = 0; m < M; ++m) sum += widen(a.d_y(m, n)) * widen(a.x(m, k));
        a.d_weight(n, k) += sum;
      }
  if (a.d_bias)
    for (Index n = 0; n < N; ++n) {
      A sum{0};
      for (Index m = 0; m < M; ++m) sum += widen(a.d_y(m, n));
      a.d_bias(n) += sum;
    }
  if (a.d_x)
    for (Index m = 0; m < M; ++m)
      for (Index k = 0; k < K; ++k) {
        A sum{0};
        for (Index n = 0; n < N; ++n) sum += widen(a.d_y(m, n)) * widen(a.weight(n, k));
        if (a.add_to_d_x) sum += widen(a.d_x(m, k));
        a.d_x(m, k) = static_cast<T>(sum);
      }
}

}  // namespace blackmamba
