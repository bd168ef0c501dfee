#include "support/statistics.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include <blackmamba/verify/tolerance.hpp>

using namespace program;

namespace {

constexpr double missing = std::numeric_limits<double>::quiet_NaN();

/// P(|t| > x) by integrating the density from 0 with Simpson's rule.
constexpr Index pieces = 20000;
double integrated(double x, Index degrees) {
  auto const n = static_cast<double>(degrees);
  double const scale = std::exp(std::lgamma((n + 1) / 2) - std::lgamma(n / 2)) / std::sqrt(n * std::acos(-1.0));
  auto const density = [&](double t) { return scale * std::pow(1 + t * t / n, -(n + 1) / 2); };
  double const h = x / static_cast<double>(pieces);
  double sum = density(0) + density(x);
  for (Index i = 1; i < pieces; ++i) sum += (i % 2 ? 4 : 2) * density(h * static_cast<double>(i));
  return 1 - 2 * sum * h / 3;
}

}  // namespace

TEST_CASE("statistics: Student's t agrees with its integrated density at every small number of degrees") {
  double const allowed = blackmamba::verify::allowed_error<double>({.terms = static_cast<double>(pieces)}, 1, 1);
  for (Index degrees = 1; degrees <= 30; ++degrees)
    for (double const t : {0.1, 0.7, 1.0, 2.5, 6.0}) {
      INFO(degrees << " degrees, t = " << t);
      CHECK(std::abs(two_sided_p(t, degrees) - integrated(t, degrees)) <= allowed);
      CHECK(two_sided_p(-t, degrees) == two_sided_p(t, degrees));
    }
}

TEST_CASE("statistics: Student's t has the printed critical values") {
  // t with a two-sided 5 % and 1 %, to the three decimals of the usual tables.
  struct Row {
    Index degrees;
    double five, one;
  };
  for (Row const row : {Row{1, 12.706, 63.657}, Row{2, 4.303, 9.925}, Row{3, 3.182, 5.841}, Row{4, 2.776, 4.604},
                        Row{9, 2.262, 3.250}, Row{30, 2.042, 2.750}}) {
    CHECK(two_sided_p(row.five - 0.0005, row.degrees) > 0.05);
    CHECK(two_sided_p(row.five + 0.0005, row.degrees) < 0.05);
    CHECK(two_sided_p(row.one - 0.0005, row.degrees) > 0.01);
    CHECK(two_sided_p(row.one + 0.0005, row.degrees) < 0.01);
  }
  CHECK(two_sided_p(0, 5) == 1);
  CHECK(two_sided_p(std::numeric_limits<double>::infinity(), 2) < 1e-15);
}

TEST_CASE("statistics: the spread leaves out what is missing") {
  auto const s = spread({1, missing, 3, 8});
  CHECK(s.count == 3);
  CHECK(s.mean == 4);
  CHECK(s.deviation == std::sqrt(13.0));
  CHECK(s.low == 1);
  CHECK(s.high == 8);
  CHECK(spread({5}).deviation == 0);
  CHECK(spread({missing}).count == 0);
  CHECK(std::isnan(spread({}).mean));
}

TEST_CASE("statistics: pairs are compared seed by seed") {
  // Differences 1, 2, 3: mean 2, deviation 1, so t = 2 √3 with 2 degrees of freedom.
  auto const pairs = compare_pairs({{11, 22, 33, missing}, {10, 20, 30, 5}});
  REQUIRE(pairs.size() == 1);
  CHECK(pairs[0].seeds == 3);
  CHECK(pairs[0].difference == 2);
  CHECK(pairs[0].p == two_sided_p(2 / (1 / std::sqrt(3.0)), 2));
  CHECK(pairs[0].adjusted == pairs[0].p);
}

TEST_CASE("statistics: one seed says nothing, equal runs do not differ, and equal differences do") {
  CHECK(std::isnan(compare_pairs({{1}, {2}})[0].p));
  CHECK(std::isnan(compare_pairs({{1}, {2}})[0].adjusted));
  CHECK(std::isnan(compare_pairs({{1, missing}, {missing, 2}})[0].difference));
  CHECK(compare_pairs({{1, 2}, {1, 2}})[0].p == 1);
  CHECK(compare_pairs({{1, 2}, {2, 3}})[0].p < 1e-15);
  CHECK(compare_pairs({{1, 2}}).empty());
}

TEST_CASE("statistics: Holm multiplies the smallest p by the number of pairs, and never reorders") {
  auto const pairs = compare_pairs({{0, 0, 0}, {1.0, 1.1, 0.9}, {1.0, 1.2, 1.1}, {missing, missing, 0}});
  REQUIRE(pairs.size() == 6);
  std::vector<Pair> tested;
  for (auto const& pair : pairs)
    if (pair.p == pair.p) tested.push_back(pair);
  REQUIRE(tested.size() == 3);
  std::sort(tested.begin(), tested.end(), [](Pair const& a, Pair const& b) { return a.p < b.p; });
  CHECK(tested[0].adjusted == 3 * tested[0].p);
  CHECK(tested[1].adjusted == std::max(tested[0].adjusted, 2 * tested[1].p));
  CHECK(tested[2].adjusted == std::max(tested[1].adjusted, tested[2].p));
}
