#pragma once
/// \file
/// Gradients of gather and combine, plainly.

#include <blackmamba/ops/dispatch/backward.hpp>

namespace blackmamba {

template <Scalar T>
void gather_tokens_backward_on(Reference const&, GatherBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  detail::check_places("gather_tokens_backward", a.places);
  Index const tokens = a.d_x.extent(0), D = a.d_x.extent(1), k = a.places.extent(1);
  for (Index t = 0; t < tokens; ++t)
    for (Index d = 0; d < D; ++d) {
      A sum{0};
      for (Index s = 0; s < k; ++s)
        if (Index const place = a.places(t, s); place >= 0) sum += widen(a.d_y(place, d));
      a.d_x(t, d) = static_cast<T>(sum);
    }
}

template <Scalar T>
void combine_backward_on(Reference const&, CombineBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  detail::check_places("combine_backward", a.places);
  Index const tokens = a.d_y.extent(0), D = a.d_y.extent(1), k = a.places.extent(1);
  for (Index t = 0; t < tokens; ++t)
    for (Index s = 0; s < k; ++s) {
      Index const place = a.places(t, s);
      A sum{0};
      if (place >= 0) {
        for (Index d = 0; d < D; ++d) sum += widen(a.x(place, d)) * widen(a.d_y(t, d));
        if (a.d_x)
          for (Index d = 0; d < D; ++d) a.d_x(place, d) = static_cast<T>(a.weights(t, s) * widen(a.d_y(t, d)));
      }
      if (a.d_weights) a.d_weights(t, s) = sum;
    }
}

}  // namespace blackmamba
