#pragma once
/// \file
/// The one table of allowed errors. Nothing else in the library, its tests or its benchmarks states a tolerance for a
/// computation that is compared with another one; what differs between operations is counted here, not tuned there.
///
/// An operation reads exact inputs, reduces over `terms` products in the accumulator, and rounds to storage `roundings` times on
/// the way to each output. With u_T and u_A the unit roundoffs of storage and accumulator, |ref| the exact output and `scale`
/// the largest magnitude that was summed (the largest |ref| of the tensor, or `Cost::scale` where cancellation can leave less):
///
///   allowed = u_T · |ref|                       the output's own rounding
///           + (roundings - 1) · u_T · scale     roundings of intermediates, seen through a map of gain about one
///           + c · sqrt(terms + 1) · u_A · scale errors of the sum, independent with zero mean (Higham & Mary 2019), c = 8
///           + 4 · tiny_T                        underflow: the smallest subnormals of the storage
///
/// A reduction whose errors are not independent, or a map that amplifies, must say so by `gain`, with a reason beside it.

#include <blackmamba/core/math.hpp>
#include <blackmamba/core/scalar.hpp>

namespace blackmamba::verify {

/// What is known of a computation's length: see the table above.
struct Cost {
  double terms = 1;      ///< length of the longest reduction that reaches an output
  double roundings = 1;  ///< roundings to storage on the way, the output's own included
  double gain = 1;       ///< amplification of intermediate errors, 1 unless a reason is given
  double scale = 0;      ///< a magnitude known to be summed, for tensors so small that all their outputs may cancel
  double stored = 0;     ///< unit roundoff of stored intermediates, where they are narrower than the output; else u_T stands for it
};

/// Smallest subnormal of a storage scalar, 0 where it is too small to matter.
template <class T>
inline constexpr double smallest = 0;
template <>
inline constexpr double smallest<half> = 0x1p-24;
template <>
inline constexpr double smallest<bf16> = 0x1p-133;
template <>
inline constexpr double smallest<float> = 0x1p-149;

/// Allowed absolute error of one output whose exact value is `reference`.
template <class T>
double allowed_error(Cost const& cost, double reference, double scale) {
  if (scale < cost.scale) scale = cost.scale;
  double const u_storage = scalar_traits<T>::unit_roundoff;
  double const u_accumulator = scalar_traits<accumulator_t<T>>::unit_roundoff;
  double const of_output = u_storage * std::fabs(reference);
  double const of_intermediates = (cost.roundings - 1) * std::fmax(u_storage, cost.stored) * scale;
  double const of_sum = 8 * std::sqrt(cost.terms + 1) * u_accumulator * scale;
  return of_output + cost.gain * (of_intermediates + of_sum) + 4 * smallest<T>;
}

}  // namespace blackmamba::verify
