#pragma once
/// \file
/// Correctly rounded storage around exact arithmetic: the best that any implementation storing its tensors in `T` can do.

#include <blackmamba/verify/tolerance.hpp>

namespace blackmamba::verify {

/// Stored as `T`, computed in double. The reference path instantiated with `Exact<bf16>` makes only the errors that storing in
/// bf16 forces on everybody, so an implementation's error can be judged against it without a tolerance.
template <Scalar T>
struct Exact {
  T stored;

  Exact() = default;
  /// Rounds once, to nearest, ties to even.
  constexpr explicit Exact(double x) : stored{static_cast<T>(x)} {}
  constexpr operator double() const { return static_cast<double>(widen(stored)); }
};

template <class T>
inline constexpr double smallest<Exact<T>> = smallest<T>;

}  // namespace blackmamba::verify

namespace blackmamba {

template <class T>
struct accumulator<verify::Exact<T>> {
  using type = double;
};

template <class T>
struct scalar_traits<verify::Exact<T>> {
  static constexpr char const* name = scalar_traits<T>::name;
  static constexpr double unit_roundoff = scalar_traits<T>::unit_roundoff;
};

static_assert(Scalar<verify::Exact<bf16>> && Scalar<verify::Exact<half>> && Scalar<verify::Exact<float>>);

}  // namespace blackmamba
