#pragma once
/// \file
/// Softmax and log-softmax, plainly.

#include <blackmamba/ops/softmax/row.hpp>
#include <blackmamba/ops/softmax/softmax.hpp>

namespace blackmamba {

template <Scalar T>
void softmax_on(Reference const&, SoftmaxArgs<T> const& a) {
  for (Index r = 0; r < a.x.extent(0); ++r) {
    auto const [max, rest] = detail::row_sum(a.x[r]);
    auto const sum = rest + accumulator_t<T>(1);
    for (Index i = 0; i < a.x.extent(1); ++i) a.y(r, i) = static_cast<T>(exp(widen(a.x(r, i)) - max) / sum);
  }
}

template <Scalar T>
void log_softmax_on(Reference const&, SoftmaxArgs<T> const& a) {
  for (Index r = 0; r < a.x.extent(0); ++r) {
    auto const [max, rest] = detail::row_sum(a.x[r]);
    auto const log_sum = log1p(rest);
    for (Index i = 0; i < a.x.extent(1); ++i) a.y(r, i) = static_cast<T>((widen(a.x(r, i)) - max) - log_sum);
  }
}

}  // namespace blackmamba
