#pragma once
// What the tests of the operations share: doctest, seeded tensors, and a check that prints the share of the allowed error.

#include <doctest/doctest.h>

#include <blackmamba/core/dual.hpp>
#include <blackmamba/core/random.hpp>
#include <blackmamba/core/tensor.hpp>
#include <blackmamba/verify/compare.hpp>

/// Passes when the comparison is within its allowed error, and says by how much when not.
#define CHECK_CLOSE(...)                   \
  do {                                     \
    auto const comparison_ = __VA_ARGS__;  \
    INFO(comparison_.describe());          \
    CHECK(static_cast<bool>(comparison_)); \
  } while (false)

namespace test {

using namespace blackmamba;

/// Normal numbers with the given spread, rounded to T.
template <class T, int Rank>
Tensor<T, Rank> random_tensor(Shape<Rank> shape, std::uint64_t seed, double spread = 1, double centre = 0) {
  Tensor<T, Rank> out{shape};
  Random const random{seed};
  for (Index i = 0; i < out.size(); ++i)
    out.data()[i] = static_cast<T>(static_cast<accumulator_t<T>>(centre + spread * random.normal(static_cast<std::uint64_t>(i))));
  return out;
}

}  // namespace test
