#pragma once
/// \file
/// The scalars a tensor may be stored in, and the scalar each one is computed in.
///
///   storage      accumulator   significant bits   unit roundoff u
///   float        float         24                 2^-24
///   double       double        53                 2^-53
///   half         float         11                 2^-11
///   bf16         float          8                 2^-8
///   long double, Dual<T>: the reference path only, computed in themselves
///
/// `bf16` and `half` are storage: they widen to float without being asked, and a float becomes one of them only by an explicit
/// conversion that rounds to nearest, ties to even. So `a * b` of two bf16 is a float, and forgetting a rounding does not compile.

#include <concepts>
#include <cstdint>
#include <type_traits>

#include <blackmamba/core/config.hpp>

namespace blackmamba {

namespace detail {

/// Rounds a double to a float so that a second rounding to fewer bits gives what one rounding would have given:
/// truncation, with the last bit set when anything was cut off ("round to odd", Boldo and Melquiond 2008).
BLACKMAMBA_HOST_DEVICE constexpr float round_to_odd(double x) {
  float const nearest = static_cast<float>(x);
  double const back = static_cast<double>(nearest);
  if (back == x || x != x) return nearest;
  auto bits = __builtin_bit_cast(std::uint32_t, nearest);
  if (bits & 1u) return nearest;
  if ((bits & 0x7fffffffu) == 0x7f800000u) return nearest;  // overflowed: infinite at any width
  // Even and inexact: step towards x, to the odd neighbour.
  bool const towards_zero = (back < 0 ? -back : back) > (x < 0 ? -x : x);
  if ((bits & 0x7fffffffu) == 0) return __builtin_bit_cast(float, (x < 0 ? 0x80000000u : 0u) | 1u);
  return __builtin_bit_cast(float, towards_zero ? bits - 1u : bits + 1u);
}

}  // namespace detail

/// bfloat16: the upper half of a float. 1 sign, 8 exponent, 7 fraction bits.
struct bf16 {
  std::uint16_t bits;

  bf16() = default;
  BLACKMAMBA_HOST_DEVICE constexpr explicit bf16(float x) : bits{round(x)} {}
  BLACKMAMBA_HOST_DEVICE constexpr explicit bf16(double x) : bits{round(detail::round_to_odd(x))} {}
  template <std::integral I>
  BLACKMAMBA_HOST_DEVICE constexpr explicit bf16(I x) : bf16{static_cast<double>(x)} {}

  BLACKMAMBA_HOST_DEVICE constexpr operator float() const {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16);
  }

  static BLACKMAMBA_HOST_DEVICE constexpr bf16 from_bits(std::uint16_t bits) {
    bf16 x{};
    x.bits = bits;
    return x;
  }

 private:
  static BLACKMAMBA_HOST_DEVICE constexpr std::uint16_t round(float x) {
    auto const f = __builtin_bit_cast(std::uint32_t, x);
    if ((f & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((f >> 16) | 0x40u);  // NaN stays quiet NaN
    return static_cast<std::uint16_t>((f + 0x7fffu + ((f >> 16) & 1u)) >> 16);
  }
};

/// IEEE binary16. 1 sign, 5 exponent, 10 fraction bits.
struct half {
  std::uint16_t bits;

  half() = default;
  BLACKMAMBA_HOST_DEVICE constexpr explicit half(float x) : bits{round(x)} {}
  BLACKMAMBA_HOST_DEVICE constexpr explicit half(double x) : bits{round(detail::round_to_odd(x))} {}
  template <std::integral I>
  BLACKMAMBA_HOST_DEVICE constexpr explicit half(I x) : half{static_cast<double>(x)} {}

  BLACKMAMBA_HOST_DEVICE constexpr operator float() const {
    std::uint32_t const sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    std::uint32_t const magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return __builtin_bit_cast(float, sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
    if (magnitude >= 0x0400u) return __builtin_bit_cast(float, sign | ((magnitude << 13) + 0x38000000u));
    float const subnormal = static_cast<float>(magnitude) * 0x1p-24f;
    return __builtin_bit_cast(float, sign | __builtin_bit_cast(std::uint32_t, subnormal));
  }

  static BLACKMAMBA_HOST_DEVICE constexpr half from_bits(std::uint16_t bits) {
    half x{};
    x.bits = bits;
    return x;
  }

 private:
  static BLACKMAMBA_HOST_DEVICE constexpr std::uint16_t round(float x) {
    auto const f = __builtin_bit_cast(std::uint32_t, x);
    auto const sign = static_cast<std::uint16_t>((f >> 16) & 0x8000u);
    std::uint32_t const magnitude = f & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // 65520 and above round to infinity
    if (magnitude >= 0x38800000u) {                                                   // normal: 2^-14 and above
      std::uint32_t const rebiased = magnitude - 0x38000000u;
      return static_cast<std::uint16_t>(sign | ((rebiased + 0xfffu + ((rebiased >> 13) & 1u)) >> 13));
    }
    // Subnormal: adding 1/2 to a magnitude below 2^-14 leaves it rounded in units of 2^-24 in the fraction of the sum.
    float const shifted = __builtin_bit_cast(float, magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (__builtin_bit_cast(std::uint32_t, shifted) - 0x3f000000u));
  }
};

static_assert(sizeof(bf16) == 2 && sizeof(half) == 2);
static_assert(std::is_trivially_copyable_v<bf16> && std::is_trivially_copyable_v<half>);

/// The scalar in which values stored as `T` are computed and summed. Specialise it to add a storage scalar.
template <class T>
struct accumulator {
  using type = T;
};
template <>
struct accumulator<bf16> {
  using type = float;
};
template <>
struct accumulator<half> {
  using type = float;
};
template <class T>
using accumulator_t = typename accumulator<std::remove_const_t<T>>::type;

/// What the rest of the library asks of a storage scalar: it widens to its accumulator and is made from it again.
template <class T>
concept Scalar = std::is_trivially_copyable_v<T> && requires(T x, accumulator_t<T> a) {
  static_cast<accumulator_t<T>>(x);
  static_cast<T>(a);
  { a + a* a } -> std::convertible_to<accumulator_t<T>>;
  { a < a } -> std::convertible_to<bool>;
};

/// Widens a stored value to the scalar it is computed in.
template <Scalar T>
BLACKMAMBA_HOST_DEVICE constexpr accumulator_t<T> widen(T x) {
  return static_cast<accumulator_t<T>>(x);
}

/// Name, as it stands on command lines and in reports, and unit roundoff u (half the distance from 1 to the next value).
template <class T>
struct scalar_traits;

template <>
struct scalar_traits<float> {
  static constexpr char const* name = "f32";
  static constexpr double unit_roundoff = 0x1p-24;
};
template <>
struct scalar_traits<double> {
  static constexpr char const* name = "f64";
  static constexpr double unit_roundoff = 0x1p-53;
};
template <>
struct scalar_traits<half> {
  static constexpr char const* name = "f16";
  static constexpr double unit_roundoff = 0x1p-11;
};
template <>
struct scalar_traits<bf16> {
  static constexpr char const* name = "bf16";
  static constexpr double unit_roundoff = 0x1p-8;
};
template <>
struct scalar_traits<long double> {
  static constexpr char const* name = "long double";
  static constexpr double unit_roundoff = 0x1p-53;  // at least a double's on every platform; 2^-64 on x86
};

static_assert(Scalar<float> && Scalar<double> && Scalar<half> && Scalar<bf16> && Scalar<long double>);

}  // namespace blackmamba
