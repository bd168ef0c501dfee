#include <blackmamba/core/random.hpp>

#include <cstring>
#include <set>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

void check_block(Philox const& got, std::initializer_list<std::uint32_t> expected) {
  int i = 0;
  for (auto const word : expected) CHECK(got.word[i++] == word);
}

double five_standard_errors(double variance, int n) { return 5 * std::sqrt(variance / n); }

}  // namespace

TEST_CASE("random: Philox4x32-10 gives the published known answers") {
  check_block(Philox::at(0, 0, 0), {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
  auto const ones = ~std::uint64_t{0};
  check_block(Philox::at(ones, ones, ones), {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
  // The digits of π: counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0, lowest word first.
  check_block(Philox::at(0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u),
              {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});
}

TEST_CASE("random: two numbers come from each block, low word first") {
  Random const random{0};
  CHECK(random.bits(0) == 0xe169c58d6627e8d5u);
  CHECK(random.bits(1) == 0x9b00dbd8bc57ac4cu);
}

TEST_CASE("random: uniform, normal and integer numbers have the same bits on every platform") {
  Random const random{20240207, 3};
  // Recorded once with GCC 12 on x86-64; the definitions leave no freedom to differ.
  struct Expected {
    std::uint64_t i;
    std::uint64_t uniform, normal;
    Index below;
  };
  for (auto const& e : {
           Expected{0u, 0x3fd744bd647eabfeu, 0xbfd654e2ce23b77cu, 363571},
           Expected{1u, 0x3fe8986db1a705edu, 0x3fe77f1d8dce3d2eu, 768609},
           Expected{2u, 0x3fdf61f038e8a412u, 0xbf98c3d896b28ba1u, 490354},
           Expected{17u, 0x3fe2baf43a6519f7u, 0x3fcb965e8094a694u, 585323},
           Expected{1000003u, 0x3fe54fc0e48aa527u, 0x3fdb725b2f232be4u, 665987},
           Expected{81985529216486895u, 0x3fe083371199d7f5u, 0x3fa48fef51b0a1f7u, 516019},
       }) {
    INFO(concat("number ", e.i));
    CHECK(__builtin_bit_cast(std::uint64_t, random.uniform(e.i)) == e.uniform);
    CHECK(__builtin_bit_cast(std::uint64_t, random.normal(e.i)) == e.normal);
    CHECK(random.below(e.i, 1000003) == e.below);
  }
  // Both tails of the normal quantile, which few draws reach.
  CHECK(__builtin_bit_cast(std::uint64_t, detail::normal_quantile(0x1p-53)) == 0xc0206b48528cea51u);
  CHECK(__builtin_bit_cast(std::uint64_t, detail::normal_quantile(1 - 0x1p-53)) == 0x40206b48528cea51u);
  CHECK(__builtin_bit_cast(std::uint64_t, detail::normal_quantile(0.01)) == 0xc0029c5c4630ff0eu);
}

TEST_CASE("random: the smallest and the largest uniform number lie inside (0, 1)") {
  double least = 1, greatest = 0;
  Random const random{1};
  for (std::uint64_t i = 0; i < 100000; ++i) {
    least = std::min(least, random.uniform(i));
    greatest = std::max(greatest, random.uniform(i));
  }
  CHECK(least > 0);
  CHECK(least < 1e-3);
  CHECK(greatest < 1);
  CHECK(greatest > 0.999);
  // All bits 0 and all bits 1 are 2^-53 and 1 - 2^-53.
  CHECK((0.0 + 0.5) * 0x1p-52 == 0x1p-53);
  CHECK((static_cast<double>(~std::uint64_t{0} >> 12) + 0.5) * 0x1p-52 == 1 - 0x1p-53);
}

TEST_CASE("random: the portable logarithm is within three units in the last place") {
  Random const random{5};
  for (std::uint64_t i = 0; i < 20000; ++i) {
    double const x = i % 2 ? random.uniform(i) : std::ldexp(0.5 + random.uniform(i), static_cast<int>(i % 200) - 100);
    double const exact = static_cast<double>(std::log(static_cast<long double>(x)));
    double const unit = std::nextafter(std::fabs(exact), HUGE_VAL) - std::fabs(exact);
    if (!(std::fabs(detail::portable_log(x) - exact) <= 3 * unit)) FAIL_CHECK(concat("log ", x, " is ", exact));
  }
  CHECK(detail::portable_log(1) == 0);
}

TEST_CASE("random: the normal quantile inverts the distribution function to the precision of a double") {
  auto const check = [](double p) {
    double const x = detail::normal_quantile(p);
    double const back = static_cast<double>(std::erfc(-static_cast<long double>(x) / std::sqrt(2.0L)) / 2);
    // An error e of x changes p by a factor 1 + e x² at most in the tail.
    verify::Cost const cost{.gain = 1 + x * x};
    if (!(std::fabs(back - p) <= verify::allowed_error<double>(cost, p, p)))
      FAIL_CHECK(concat("p ", p, ": x ", x, ", back ", back));
  };
  for (int e = -1000; e < -1; e += 3) check(std::ldexp(1.0, e));
  Random const random{9};
  for (std::uint64_t i = 0; i < 20000; ++i) check(random.uniform(i));
  CHECK(detail::normal_quantile(0.5) == 0);
  CHECK(detail::normal_quantile(0.25) == -detail::normal_quantile(0.75));
  CHECK(detail::normal_quantile(0.0625) == -detail::normal_quantile(1 - 0.0625));
}

TEST_CASE("random: moments of the uniform and the normal numbers are within five standard errors") {
  constexpr int n = 200000;
  Random const random{11, 2};
  double u1 = 0, u2 = 0, z[5]{}, lagged = 0;
  for (int i = 0; i < n; ++i) {
    auto const at = static_cast<std::uint64_t>(i);
    double const u = random.uniform(at), x = random.normal(at);
    u1 += u / n, u2 += u * u / n;
    double power = 1;
    for (double& moment : z) moment += power / n, power *= x;
    lagged += x * random.normal(at + 1) / n;
  }
  CHECK(std::fabs(u1 - 0.5) < five_standard_errors(1.0 / 12, n));
  CHECK(std::fabs(u2 - 1.0 / 3) < five_standard_errors(4.0 / 45, n));
  CHECK(std::fabs(z[1]) < five_standard_errors(1, n));
  CHECK(std::fabs(z[2] - 1) < five_standard_errors(2, n));
  CHECK(std::fabs(z[3]) < five_standard_errors(15, n));
  CHECK(std::fabs(z[4] - 3) < five_standard_errors(96, n));
  CHECK(std::fabs(lagged) < five_standard_errors(1, n));
}

TEST_CASE("random: integers below n are all reached, none outside, evenly") {
  constexpr int n = 7, draws = 70000;
  int count[n]{};
  Random const random{3};
  for (int i = 0; i < draws; ++i) {
    Index const x = random.below(static_cast<std::uint64_t>(i), n);
    REQUIRE((x >= 0 && x < n));
    ++count[x];
  }
  for (int c : count) CHECK(std::fabs(c - draws / n) < 5 * std::sqrt(draws / n * (1 - 1.0 / n)));
  CHECK(random.below(5, 1) == 0);
  CHECK(random.below(5, (Index{1} << 62)) < (Index{1} << 62));
}

TEST_CASE("random: streams, seeds and splits differ, and each is a function of its arguments") {
  std::set<std::uint64_t> seen;
  int made = 0;
  for (std::uint64_t seed : {0, 1, 2})
    for (std::uint64_t stream : {0, 1, 2})
      for (std::uint64_t i = 0; i < 50; ++i, ++made) seen.insert(Random{seed, stream}.bits(i));
  for (std::uint64_t part : {0, 1, 2})
    for (std::uint64_t i = 0; i < 50; ++i, ++made) seen.insert(Random{1}.split(part).bits(i));
  CHECK(static_cast<int>(seen.size()) == made);
  CHECK(Random{1}.split(2).bits(3) == Random{1}.split(2).bits(3));
  CHECK(Random{1}.split(2).split(1).bits(0) != Random{1}.split(1).split(2).bits(0));
}

TEST_CASE("random: a uniform number between two ends lies between them") {
  Random const random{4};
  for (std::uint64_t i = 0; i < 1000; ++i) {
    double const x = random.uniform(i, -2, 5);
    CHECK((x > -2 && x < 5));
  }
}
