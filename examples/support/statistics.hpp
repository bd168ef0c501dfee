#pragma once
// What few seeds can say: mean and spread, and whether two routers differ.

#include <string>
#include <vector>

#include <blackmamba/core/config.hpp>

namespace program {

using blackmamba::Index;

/// Mean, standard deviation (n - 1; 0 of a single value), smallest and largest. All NaN of nothing; values that are NaN are left
/// out.
struct Spread {
  Index count = 0;
  double mean, deviation, low, high;
};
Spread spread(std::vector<double> const& values);

/// P(|t| > `t`) for Student's t with `degrees` ≥ 1 degrees of freedom, by the finite series in the angle arctan(t / √degrees):
/// Abramowitz & Stegun 26.7.3 and 26.7.4.
double two_sided_p(double t, Index degrees);

/// Two routers that were trained with the same seeds. The difference is first less second.
struct Pair {
  std::size_t first = 0, second = 0;  ///< as they were given
  Index seeds = 0;                    ///< that both have
  double difference = 0;              ///< mean over these
  double p = 1;                       ///< of Student's t test on the differences; NaN with fewer than 2 seeds
  double adjusted = 1;                ///< p after Holm's correction over all pairs; NaN likewise
};

/// Values by seed, NaN where a seed is missing: `values[router][seed]`. Every pair of routers, by a paired t test: runs of one seed
/// share their data, so what a seed does to both cancels. Holm's step-down correction bounds the chance of any false verdict.
std::vector<Pair> compare_pairs(std::vector<std::vector<double>> const& values);

}  // namespace program
