#pragma once
/// \file
/// AdamW, plainly.

#include <blackmamba/core/math.hpp>
#include <blackmamba/ops/adamw/adamw.hpp>

namespace blackmamba {

template <Scalar T>
void adamw_on(Reference const&, AdamWArgs<T> const& a) {
  using A = accumulator_t<T>;
  bool applied;
  auto const f = detail::adamw_factors(a, applied);
  if (!applied) return;
  for (Index s = 0; s < a.segments.extent(0); ++s) {
    AdamWSegment const& segment = a.segments(s);
    for (Index i = segment.offset; i < segment.offset + segment.elements; ++i) {
      A const g = a.gradient(i) * f.scale;
      A const m = a.first(i) = f.beta1 * a.first(i) + f.rest1 * g;
      A const v = a.second(i) = f.beta2 * a.second(i) + f.rest2 * g * g;
      A change = f.rate * m / (sqrt(v) * f.correction + f.epsilon);
      if (segment.decays && f.decays) change += f.decay * a.master(i);
      a.master(i) -= change;
      if (a.weights) a.weights(i) = static_cast<T>(a.master(i));
    }
  }
}

}  // namespace blackmamba
