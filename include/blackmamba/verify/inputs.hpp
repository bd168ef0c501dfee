#pragma once
/// \file
/// Seeded tensors for problems: inputs that hold the same values in every scalar, and outputs that show what was not written.

#include <algorithm>
#include <limits>

#include <blackmamba/core/random.hpp>
#include <blackmamba/core/tensor.hpp>

namespace blackmamba::verify {

/// Normal numbers.
struct Normal {
  double centre = 0, spread = 1;
  double operator()(Random const& random, std::uint64_t i) const { return std::fma(spread, random.normal(i), centre); }
};

/// Numbers uniform on (low, high).
struct Uniform {
  double low = 0, high = 1;
  double operator()(Random const& random, std::uint64_t i) const { return random.uniform(i, low, high); }
};

/// Makes the tensors of one problem, each from a stream of its own. Values are rounded to `Stored` first and then written in the
/// scalar asked for, so a problem in bf16 and its exact twin in double start from the same numbers.
template <Scalar Stored>
class Inputs {
 public:
  explicit Inputs(std::uint64_t seed) : seed_{seed} {}

  /// A tensor that the operation reads in its storage scalar.
  template <Scalar T, int Rank, class Law = Normal>
  Tensor<T, Rank> storage(Shape<Rank> shape, Law law = {}) {
    return rounded_to<Stored, T>(shape, law);
  }

  /// A tensor that the operation reads in its accumulator scalar: states, residuals, weights of a mixture.
  template <Scalar A, int Rank, class Law = Normal>
  Tensor<A, Rank> accumulator(Shape<Rank> shape, Law law = {}) {
    return rounded_to<accumulator_t<Stored>, A>(shape, law);
  }

  /// Integers in [0, n).
  template <std::integral I, int Rank>
  Tensor<I, Rank> integers(Shape<Rank> shape, Index n) {
    Tensor<I, Rank> out{shape};
    Random const random{seed_, ++stream_};
    for (Index i = 0; i < out.size(); ++i) out.data()[i] = static_cast<I>(random.below(static_cast<std::uint64_t>(i), n));
    return out;
  }

  /// `parts` + 1 ascending offsets from 0 to `total`: parts of unequal length, empty ones among them.
  Tensor<Index, 1> offsets(Index parts, Index total) {
    auto out = integers<Index>(Shape<1>{parts + 1}, total + 1);
    out(0) = 0;
    out(parts) = total;
    std::sort(out.begin(), out.end());
    return out;
  }

 private:
  template <class Rounded, class T, int Rank, class Law>
  Tensor<T, Rank> rounded_to(Shape<Rank> shape, Law const& law) {
    Tensor<T, Rank> out{shape};
    Random const random{seed_, ++stream_};
    for (Index i = 0; i < out.size(); ++i)
      out.data()[i] = static_cast<T>(widen(static_cast<Rounded>(law(random, static_cast<std::uint64_t>(i)))));
    return out;
  }

  std::uint64_t seed_, stream_ = 0;
};

/// An output before it is written: NaN everywhere, or the lowest integer, so that an element left out is seen.
template <class T, int Rank>
Tensor<T, Rank> unwritten(Shape<Rank> shape) {
  Tensor<T, Rank> out{shape};
  for (T& x : out) {
    if constexpr (std::integral<T>)
      x = std::numeric_limits<T>::lowest();
    else
      x = static_cast<T>(std::numeric_limits<accumulator_t<T>>::quiet_NaN());
  }
  return out;
}

}  // namespace blackmamba::verify
