#pragma once
// A run in one line of numbers, and results.csv.

#include <functional>
#include <string>
#include <vector>

#include "support/metrics.hpp"

namespace program {

/// Where a run ended. Means of a step's layers are over its mixture layers; what is not known is NaN.
struct RunSummary {
  Index steps = 0, tokens = 0;
  double training_loss;  ///< nats a token, mean over the last tenth of the steps
  double loss;           ///< nats a token on held-out text, as `bits_per_byte` and `perplexity`: at the last evaluation
  double bits_per_byte;
  double perplexity;
  double max_vio;  ///< mean over layers and the last tenth of the steps, as the next four
  double entropy;
  double dead;     ///< experts of a layer without load
  double dropped;  ///< share of assignments
  double confidence;
  double moved;  ///< at the last evaluation, mean over layers, as the next two
  double churn;
  double class_information;  ///< bits between a token's class and its expert
  double tokens_per_second;  ///< median over steps
};

RunSummary summarise(Run const& run);

/// The steps that "the last tenth" means: at least one where there is one.
Index last_tenth(Run const& run);

/// Mean over the mixture layers of what `of` says of each; NaN without layers.
double layer_mean(StepRecord const& record, std::function<double(RoutingStats const&)> const& of);

/// A field of a CSV file as RFC 4180 wants it: in quotes where it holds a comma, a quote or a line end.
std::string csv_field(std::string const& text);

/// One line for each run, under a line of names. Written whole or not at all; throws `file_error`.
void write_results(std::string const& path, Comparison const& comparison);

}  // namespace program
