#include <blackmamba/io/dtype.hpp>

#include <cmath>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include <blackmamba/core/dual.hpp>

using namespace blackmamba;
using io::DType;

namespace {

/// Elements of S through the bytes of a file, at an odd address, into T.
template <class T, class S>
std::vector<T> through(DType dtype, std::vector<S> const& values, int threads = 1) {
  std::vector<std::byte> bytes(values.size() * sizeof(S) + 1);
  if (!values.empty()) std::memcpy(bytes.data() + 1, values.data(), values.size() * sizeof(S));
  std::vector<T> out(values.size());
  io::convert(dtype, bytes.data() + 1, std::span{out}, threads);
  return out;
}

/// sign · 2^exponent · fraction of an 8- or 16-bit float, by arithmetic.
double small_float(unsigned bits, int exponent_bits, int fraction_bits, bool has_infinity) {
  int const bias = (1 << (exponent_bits - 1)) - 1;
  unsigned const fraction = bits & ((1u << fraction_bits) - 1), exponent = bits >> fraction_bits & ((1u << exponent_bits) - 1);
  double const sign = bits >> (exponent_bits + fraction_bits) & 1 ? -1 : 1;
  unsigned const top = (1u << exponent_bits) - 1;
  if (has_infinity && exponent == top) return fraction ? NAN : sign * HUGE_VAL;
  if (!has_infinity && exponent == top && fraction == (1u << fraction_bits) - 1) return NAN;
  double const mantissa = static_cast<double>(fraction) + (exponent ? std::ldexp(1.0, fraction_bits) : 0);
  return sign * std::ldexp(mantissa, static_cast<int>(exponent ? exponent : 1) - bias - fraction_bits);
}

template <class S>
void check_all_patterns(DType dtype, int exponent_bits, int fraction_bits, bool has_infinity) {
  std::vector<S> patterns(std::size_t{1} << (8 * sizeof(S)));
  for (std::size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<S>(i);
  auto const values = through<float>(dtype, patterns);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < patterns.size(); ++i) {
    double const expected = small_float(static_cast<unsigned>(i), exponent_bits, fraction_bits, has_infinity);
    wrong += !(std::isnan(expected) ? std::isnan(values[i]) : static_cast<double>(values[i]) == expected);
  }
  CHECK(wrong == 0);
}

/// Whether no value of T beside `got` is nearer to x.
template <class T>
bool nearest(long double x, T got) {
  auto const error = [&](T y) { return std::fabs(static_cast<long double>(static_cast<float>(y)) - x); };
  T below = got, above = got;
  below.bits = static_cast<std::uint16_t>(got.bits - 1), above.bits = static_cast<std::uint16_t>(got.bits + 1);
  return error(got) <= error(below) && error(got) <= error(above) && (error(got) < error(below) || !(got.bits & 1)) &&
         (error(got) < error(above) || !(got.bits & 1));
}

}  // namespace

TEST_CASE("dtype: names and sizes are those of the format") {
  for (DType const dtype : io::all_dtypes) CHECK(io::dtype_from_name(io::to_string(dtype)) == dtype);
  CHECK(!io::dtype_from_name("F31"));
  CHECK(!io::dtype_from_name(""));
  CHECK(io::to_string(DType::f8_e4m3) == "F8_E4M3");
  CHECK(io::size_of(DType::f64) == 8);
  CHECK(io::size_of(DType::boolean) == 1);
  CHECK(io::is_floating(DType::f8_e5m2));
  CHECK(!io::is_floating(DType::i64));
  static_assert(io::dtype_of<float>() == DType::f32 && io::dtype_of<bf16>() == DType::bf16 && io::dtype_of<Index>() == DType::i64 &&
                io::dtype_of<Token>() == DType::i32 && io::dtype_of<bool>() == DType::boolean);
}

TEST_CASE("dtype: every pattern of the small floats has its value") {
  check_all_patterns<std::uint16_t>(DType::f16, 5, 10, true);
  check_all_patterns<std::uint16_t>(DType::bf16, 8, 7, true);
  check_all_patterns<std::uint8_t>(DType::f8_e4m3, 4, 3, false);
  check_all_patterns<std::uint8_t>(DType::f8_e5m2, 5, 2, true);
}

TEST_CASE("dtype: floats round once, to nearest even, on packs and one by one") {
  // 1 + 2^-8 + 2^-40 lies above the middle of two bf16; a float on the way would lose that and round down.
  double const above = 1 + 0x1p-8 + 0x1p-40;
  CHECK(through<bf16>(DType::f64, std::vector<double>(3, above))[2].bits == bf16{1 + 0x1p-7}.bits);
  CHECK(through<half>(DType::f64, std::vector<double>(3, 1 + 0x1p-11 + 0x1p-40))[2].bits == half{1 + 0x1p-10}.bits);
  for (std::size_t length : {0u, 1u, 7u, 8u, 9u, 1023u, 1024u, 1025u, 3000u}) {
    std::vector<float> values(length);
    for (std::size_t i = 0; i < length; ++i)
      values[i] = std::ldexp(1 + static_cast<float>(i) * 0x1.8p-11f, static_cast<int>(i % 40) - 20);
    auto const in_bf16 = through<bf16>(DType::f32, values);
    auto const in_half = through<half>(DType::f32, values);
    auto const in_double = through<double>(DType::f32, values);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < length; ++i)
      wrong += in_bf16[i].bits != bf16{values[i]}.bits || in_half[i].bits != half{values[i]}.bits ||
               in_double[i] != static_cast<double>(values[i]);
    CHECK(wrong == 0);
  }
}

TEST_CASE_TEMPLATE("dtype: 64-bit integers round once", T, bf16, half) {
  std::vector<std::int64_t> values;
  for (int shift : {8, 9, 11, 12, 15, 16, 31, 53, 55, 61, 62})
    for (std::int64_t offset : {-2, -1, 0, 1, 2})
      for (std::int64_t tie : {0, 1, 2, 3}) {
        std::int64_t const base = (std::int64_t{1} << shift) + (tie * (std::int64_t{1} << shift) >> 8);
        values.push_back(base + offset), values.push_back(-base + offset);
      }
  if constexpr (std::is_same_v<T, half>) std::erase_if(values, [](std::int64_t x) { return x > 65'000 || x < -65'000; });
  auto const rounded = through<T>(DType::i64, values);
  for (std::size_t i = 0; i < values.size(); ++i) {
    INFO(values[i]);
    CHECK(nearest(static_cast<long double>(values[i]), rounded[i]));
  }
  CHECK(static_cast<float>(
            through<bf16>(DType::u64, std::vector<std::uint64_t>{(std::uint64_t{1} << 63) + (std::uint64_t{1} << 55) + 1})[0]) ==
        0x1p63f + 0x1p56f);
}

TEST_CASE("dtype: integers go into integers that hold them, and no others") {
  CHECK(through<Token>(DType::i64, std::vector<std::int64_t>{-5, 2147483647}) == std::vector<Token>{-5, 2147483647});
  CHECK(through<Index>(DType::u8, std::vector<std::uint8_t>{255}) == std::vector<Index>{255});
  CHECK(through<Index>(DType::boolean, std::vector<std::uint8_t>{0, 1, 2}) == std::vector<Index>{0, 1, 1});
  CHECK_THROWS_WITH_AS(through<Token>(DType::i64, std::vector<std::int64_t>{1, 2147483648}),
                       "the value 2147483648 does not fit into an integer of 32 bits", value_error);
  CHECK_THROWS_AS(through<Index>(DType::u64, std::vector<std::uint64_t>{~std::uint64_t{0}}), value_error);
  CHECK_THROWS_AS(through<std::uint8_t>(DType::i8, std::vector<std::int8_t>{-1}), value_error);
  CHECK_THROWS_WITH_AS(through<Token>(DType::bf16, std::vector<bf16>{bf16{1.0f}}), "elements of BF16 are not integers",
                       value_error);
}

TEST_CASE("dtype: every element type goes into dual numbers and long double") {
  CHECK(through<Dual<double>>(DType::f16, std::vector<half>{half{1.5f}})[0].value == 1.5);
  CHECK(through<Dual<double>>(DType::i64, std::vector<std::int64_t>{3})[0].tangent == 0);
  CHECK(through<long double>(DType::i64, std::vector<std::int64_t>{(std::int64_t{1} << 53) + 1})[0] == 0x1p53L + 1);
}

TEST_CASE("dtype: threads change nothing") {
  std::vector<double> values((1 << 21) + 5);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i) * 1.000001;
  CHECK(through<float>(DType::f64, values, 1) == through<float>(DType::f64, values, 2));
}
