#pragma once
/// \file
/// Dispatch and combine, plainly. The sort itself has no faster CPU version: it touches a few bytes for each token, where the
/// gather beside it touches thousands.

#include <blackmamba/ops/dispatch/dispatch.hpp>

namespace blackmamba {

inline void dispatch_on(Reference const&, DispatchArgs const& a) {
  Index const tokens = a.experts.extent(0), k = a.experts.extent(1), E = a.offsets.extent(0) - 1;
  for (Index t = 0; t < tokens; ++t)
    for (Index s = 0; s < k; ++s)
      check_value(a.experts(t, s) >= -1 && a.experts(t, s) < E, "dispatch", "the expert of token ", t, ", slot ", s, " is ",
                  a.experts(t, s), ", outside -1 to ", E - 1);

  // offsets[e + 1] counts expert e, then becomes the sum up to it. While the places are dealt, offsets[e] is the next free place
  // of expert e, and ends as the first place of expert e + 1: one shift undoes that.
  for (Index e = 0; e <= E; ++e) a.offsets(e) = 0;
  for (Index t = 0; t < tokens; ++t)
    for (Index s = 0; s < k; ++s)
      if (int const e = a.experts(t, s); e >= 0) ++a.offsets(e + 1);
  for (Index e = 0; e < E; ++e) a.offsets(e + 1) += a.offsets(e);
  for (Index t = 0; t < tokens; ++t)
    for (Index s = 0; s < k; ++s) {
      int const e = a.experts(t, s);
      a.places(t, s) = e >= 0 ? a.offsets(e)++ : -1;
      if (e >= 0) a.order(a.places(t, s)) = t * k + s;
    }
  for (Index p = a.offsets(E); p < tokens * k; ++p) a.order(p) = -1;
  for (Index e = E; e > 0; --e) a.offsets(e) = a.offsets(e - 1);
  a.offsets(0) = 0;
}

namespace detail {

template <Scalar T>
void check_order(GatherArgs<T> const& a) {
  for (Index p = 0; p < a.order.extent(0); ++p)
    check_value(a.order(p) >= -1 && a.order(p) < a.order.extent(0), "gather_tokens", "order[", p, "] is ", a.order(p),
                ", outside -1 to ", a.order.extent(0) - 1);
}

template <Scalar T>
void check_places(CombineArgs<T> const& a) {
  for (Index t = 0; t < a.places.extent(0); ++t)
    for (Index s = 0; s < a.places.extent(1); ++s)
      check_value(a.places(t, s) >= -1 && a.places(t, s) < a.x.extent(0), "combine", "the place of token ", t, ", slot ", s, " is ",
                  a.places(t, s), ", outside -1 to ", a.x.extent(0) - 1);
}

}  // namespace detail

template <Scalar T>
void gather_tokens_on(Reference const&, GatherArgs<T> const& a) {
  detail::check_order(a);
  for (Index p = 0; p < a.y.extent(0); ++p) {
    if (a.order(p) < 0) continue;
    Index const token = a.order(p) / a.slots;
    for (Index d = 0; d < a.y.extent(1); ++d) a.y(p, d) = a.x(token, d);
  }
}

template <Scalar T>
void combine_on(Reference const&, CombineArgs<T> const& a) {
  using A = accumulator_t<T>;
  detail::check_places(a);
  Index const tokens = a.y.extent(0), D = a.y.extent(1), k = a.places.extent(1);
  for (Index t = 0; t < tokens; ++t)
    for (Index d = 0; d < D; ++d) {
      A sum{0};
      for (Index s = 0; s < k; ++s)
        if (Index const place = a.places(t, s); place >= 0) sum += a.weights(t, s) * widen(a.x(place, d));
      a.y(t, d) = static_cast<T>(sum);
    }
}

}  // namespace blackmamba
