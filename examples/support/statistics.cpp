#include "support/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace program {

namespace {

constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

/// Multiplies the k-th smallest of m by m - k + 1, never below the one before and never above 1.
void adjust(std::vector<Pair>& pairs) {
  std::vector<Pair*> order;
  for (auto& pair : pairs)
    if (pair.p == pair.p) order.push_back(&pair);
  std::stable_sort(order.begin(), order.end(), [](Pair const* a, Pair const* b) { return a->p < b->p; });
  double largest = 0;
  for (std::size_t k = 0; k < order.size(); ++k) {
    largest = std::max(largest, std::min(1.0, order[k]->p * static_cast<double>(order.size() - k)));
    order[k]->adjusted = largest;
  }
}

}  // namespace

Spread spread(std::vector<double> const& values) {
  Spread out{0, unknown, unknown, unknown, unknown};
  double sum = 0, squares = 0;
  for (double const x : values)
    if (x == x) {
      sum += x;
      out.low = out.count ? std::min(out.low, x) : x;
      out.high = out.count ? std::max(out.high, x) : x;
      ++out.count;
    }
  if (out.count == 0) return out;
  out.mean = sum / static_cast<double>(out.count);
  for (double const x : values)
    if (x == x) squares += (x - out.mean) * (x - out.mean);
  out.deviation = out.count > 1 ? std::sqrt(squares / static_cast<double>(out.count - 1)) : 0;
  return out;
}

double two_sided_p(double t, Index degrees) {
  double const angle = std::atan(std::abs(t) / std::sqrt(static_cast<double>(degrees)));
  double const sine = std::sin(angle), square = std::cos(angle) * std::cos(angle);
  bool const odd = degrees % 2;
  // 1 + 1/2 cos² + (1·3)/(2·4) cos⁴ + … for even degrees, cos (1 + 2/3 cos² + (2·4)/(3·5) cos⁴ + …) for odd ones.
  double term = 1, sum = degrees > 1 ? 1 : 0;
  for (Index k = odd ? 2 : 1; k <= degrees - 3; k += 2) {
    term *= static_cast<double>(k) / static_cast<double>(k + 1) * square;
    sum += term;
  }
  double const inside = odd ? 2 / std::numbers::pi * (angle + sine * std::cos(angle) * sum) : sine * sum;
  return std::clamp(1 - inside, 0.0, 1.0);
}

std::vector<Pair> compare_pairs(std::vector<std::vector<double>> const& values) {
  std::vector<Pair> out;
  for (std::size_t a = 0; a < values.size(); ++a)
    for (std::size_t b = a + 1; b < values.size(); ++b) {
      std::vector<double> differences;
      for (std::size_t s = 0; s < std::min(values[a].size(), values[b].size()); ++s)
        differences.push_back(values[a][s] - values[b][s]);
      auto const of = spread(differences);
      Pair pair{a, b, of.count, of.mean, unknown, unknown};
      if (of.count > 1) {
        double const error = of.deviation / std::sqrt(static_cast<double>(of.count));
        // No difference at all is no evidence; the same difference with every seed is all that there can be.
        pair.p =
            of.mean == 0 ? 1 : two_sided_p(error > 0 ? of.mean / error : std::numeric_limits<double>::infinity(), of.count - 1);
      }
      out.push_back(pair);
    }
  adjust(out);
  return out;
}

}  // namespace program
