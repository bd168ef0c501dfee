#include <blackmamba/core/scalar.hpp>

#include <cmath>
#include <limits>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// What a storage format can hold, by its definition.
template <class T>
struct Format;
template <>
struct Format<bf16> {
  static constexpr int fraction_bits = 7, least_exponent = -133, greatest_exponent = 127;
};
template <>
struct Format<half> {
  static constexpr int fraction_bits = 10, least_exponent = -24, greatest_exponent = 15;
};

/// x rounded to nearest, ties to even: scaled so that the format's unit is 1, where rounding to an integer is exact.
template <class T>
double rounded(double x) {
  if (x == 0 || !std::isfinite(x)) return x;
  int const unit = std::max(std::ilogb(x) - Format<T>::fraction_bits, Format<T>::least_exponent);
  double const nearest = std::ldexp(std::nearbyint(std::ldexp(x, -unit)), unit);
  bool const overflows = std::fabs(nearest) >= std::ldexp(1.0, Format<T>::greatest_exponent + 1);
  return overflows ? std::copysign(HUGE_VAL, x) : nearest;
}

bool same(double a, double b) { return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b)); }

template <class T>
double value(std::uint32_t bits) {
  return static_cast<double>(static_cast<float>(T::from_bits(static_cast<std::uint16_t>(bits))));
}

template <class T>
void check_double(double x) {
  double const got = static_cast<float>(T{x});
  if (!same(got, rounded<T>(x))) FAIL_CHECK(concat("from double ", x, ": got ", got, ", expected ", rounded<T>(x)));
}

template <class T>
void check_float(float x) {
  double const got = static_cast<float>(T{x});
  if (!same(got, rounded<T>(x))) FAIL_CHECK(concat("from float ", x, ": got ", got, ", expected ", rounded<T>(x)));
}

}  // namespace

TEST_CASE_TEMPLATE("scalar: every bit pattern survives the way to float and back, and a signalling NaN comes back quiet", T, bf16,
                   half) {
  int wrong = 0, nans = 0;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    auto const x = T::from_bits(static_cast<std::uint16_t>(bits));
    float const wide = x;
    std::uint32_t const quiet = std::isnan(wide) ? 1u << (Format<T>::fraction_bits - 1) : 0u;
    nans += std::isnan(wide);
    if (T{wide}.bits != (bits | quiet)) ++wrong;
    if (T{static_cast<double>(wide)}.bits != (bits | quiet)) ++wrong;
  }
  CHECK(wrong == 0);
  CHECK(nans == 2 * ((1 << Format<T>::fraction_bits) - 1));
}

TEST_CASE_TEMPLATE("scalar: a bit pattern means sign, exponent and fraction", T, bf16, half) {
  constexpr int f = Format<T>::fraction_bits;
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    std::uint32_t const exponent = (bits & 0x7fffu) >> f, fraction = bits & ((1u << f) - 1);
    if (exponent == 0x7fffu >> f) continue;
    double const magnitude = exponent == 0
                                 ? std::ldexp(fraction, Format<T>::least_exponent)
                                 : std::ldexp(fraction + (1u << f), Format<T>::least_exponent + static_cast<int>(exponent) - 1);
    if (!same(value<T>(bits), bits & 0x8000u ? -magnitude : magnitude)) ++wrong;
  }
  CHECK(wrong == 0);
  CHECK(value<T>(0x7fffu >> f << f) == HUGE_VAL);
}

TEST_CASE_TEMPLATE("scalar: floats and doubles round to nearest, ties to even, at and beside every midpoint", T, bf16, half) {
  for (std::uint32_t bits = 0; bits + 1 < (0x7fffu >> Format<T>::fraction_bits << Format<T>::fraction_bits); ++bits)
    for (double sign : {1.0, -1.0}) {
      double const here = sign * value<T>(bits), middle = (here + sign * value<T>(bits + 1)) / 2;
      check_double<T>(middle);
      check_double<T>(std::nextafter(middle, here));
      check_double<T>(std::nextafter(middle, 2 * middle));
      float const narrow = static_cast<float>(middle);  // exact: one bit more than T holds, or bf16's smallest half-units
      CHECK(narrow == middle);
      check_float<T>(narrow);
      check_float<T>(std::nextafter(narrow, static_cast<float>(here)));
      check_float<T>(std::nextafter(narrow, static_cast<float>(2 * middle)));
    }
}

TEST_CASE_TEMPLATE("scalar: random bit patterns of float and double, NaN and infinity among them, round to nearest", T, bf16,
                   half) {
  Random const random{7};
  for (std::uint64_t i = 0; i < 300000; ++i) {
    auto const bits = random.bits(i);
    check_double<T>(__builtin_bit_cast(double, bits));
    check_float<T>(__builtin_bit_cast(float, static_cast<std::uint32_t>(bits)));
    check_double<T>(std::ldexp(random.normal(i), static_cast<int>(i % 48) - 30));  // where half changes from zero to infinity
  }
}

TEST_CASE_TEMPLATE("scalar: the ends of the range", T, bf16, half) {
  double const largest = value<T>((0x7fffu >> Format<T>::fraction_bits << Format<T>::fraction_bits) - 1);
  double const overflow = std::ldexp(2.0 - std::ldexp(1.0, -Format<T>::fraction_bits - 1), Format<T>::greatest_exponent);
  CHECK(static_cast<float>(T{std::nextafter(overflow, 0.0)}) == largest);
  CHECK(static_cast<float>(T{overflow}) == HUGE_VALF);
  CHECK(static_cast<float>(T{-overflow}) == -HUGE_VALF);
  double const least = std::ldexp(1.0, Format<T>::least_exponent);
  CHECK(static_cast<float>(T{least / 2}) == 0);
  CHECK(static_cast<float>(T{std::nextafter(least / 2, 1.0)}) == least);
  CHECK(T{-0.0}.bits == 0x8000u);
  CHECK(std::isnan(static_cast<float>(T{std::numeric_limits<double>::quiet_NaN()})));
  CHECK(std::isnan(static_cast<float>(T{std::numeric_limits<float>::signaling_NaN()})));
  CHECK(static_cast<float>(T{std::numeric_limits<double>::denorm_min()}) == 0);
  CHECK(static_cast<float>(T{std::numeric_limits<double>::max()}) == HUGE_VALF);
}

TEST_CASE_TEMPLATE("scalar: a double is rounded once, where rounding to float on the way would give another value", T, bf16, half) {
  double const just_above_the_middle = 1 + std::ldexp(1.0, -Format<T>::fraction_bits - 1) + 0x1p-40;
  double const next = 1 + std::ldexp(1.0, -Format<T>::fraction_bits);
  CHECK(static_cast<float>(T{just_above_the_middle}) == next);
  CHECK(static_cast<float>(T{static_cast<float>(just_above_the_middle)}) == 1);
  double const just_below = next + std::ldexp(1.0, -Format<T>::fraction_bits - 1) - 0x1p-40;
  CHECK(static_cast<float>(T{just_below}) == next);
  CHECK(static_cast<float>(T{static_cast<float>(just_below)}) == 1 + std::ldexp(2.0, -Format<T>::fraction_bits));
}

TEST_CASE("scalar: products of stored values are computed in float, and only an explicit conversion rounds them") {
  static_assert(std::is_same_v<decltype(bf16{} * bf16{}), float> && std::is_same_v<decltype(half{} + half{}), float>);
  static_assert(!std::is_convertible_v<float, bf16> && !std::is_convertible_v<float, half>);
  static_assert(std::is_same_v<accumulator_t<bf16 const>, float> && std::is_same_v<accumulator_t<double>, double>);
  static_assert(static_cast<float>(bf16{3}) == 3 && static_cast<float>(half{2.5}) == 2.5f);
  CHECK(widen(half{0.1}) == 0x1.998p-4f);
}
