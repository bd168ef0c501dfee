#include "support/results.hpp"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include <blackmamba/io/atomic_file.hpp>

namespace program {

namespace {

constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

/// A mean that is NaN of nothing.
struct Mean {
  double sum = 0;
  Index count = 0;
  void add(double x) { sum += x, ++count; }
  void add(std::optional<double> const& x) {
    if (x) add(*x);
  }
  double value() const { return count ? sum / static_cast<double>(count) : unknown; }
};

double median(std::vector<double> values) {
  if (values.empty()) return unknown;
  auto const middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

/// Shortest exact decimal; nothing for what is not known.
std::string decimal(double x) { return x - x == 0 ? fmt::format("{}", x) : std::string{}; }

}  // namespace

Index last_tenth(Run const& run) { return (static_cast<Index>(run.steps.size()) + 9) / 10; }

double layer_mean(StepRecord const& record, std::function<double(RoutingStats const&)> const& of) {
  Mean mean;
  for (auto const& layer : record.layers) mean.add(of(layer));
  return mean.value();
}

RunSummary summarise(Run const& run) {
  RunSummary out{};
  Mean training_loss, max_vio, entropy, dead, confidence, moved, churn, information;
  double dropped = 0, assigned = 0;
  auto const tail = static_cast<std::ptrdiff_t>(last_tenth(run));
  for (auto at = run.steps.end() - tail; at != run.steps.end(); ++at) {
    training_loss.add(at->loss);
    for (auto const& layer : at->layers) {
      max_vio.add(layer.balance.max_vio), entropy.add(layer.balance.entropy), confidence.add(layer.confidence);
      dead.add(static_cast<double>(layer.balance.dead));
      dropped += static_cast<double>(layer.dropped);
      for (Index const load : layer.load) assigned += static_cast<double>(load);
    }
  }
  out.loss = out.bits_per_byte = out.perplexity = unknown;
  if (!run.evals.empty()) {
    auto const& last = run.evals.back();
    out.loss = last.loss, out.bits_per_byte = last.bits_per_byte, out.perplexity = last.perplexity;
    for (auto const& layer : last.layers) {
      moved.add(layer.moved), churn.add(layer.churn);
      if (!layer.counts.empty()) information.add(mutual_information(layer.counts, byte_classes));
    }
  }
  if (!run.steps.empty()) out.steps = run.steps.back().step, out.tokens = run.steps.back().tokens;
  std::vector<double> rates;
  for (auto const& step : run.steps) rates.push_back(step.tokens_per_second);
  out.training_loss = training_loss.value(), out.max_vio = max_vio.value(), out.entropy = entropy.value();
  out.dead = dead.value(), out.dropped = assigned > 0 ? dropped / assigned : unknown, out.confidence = confidence.value();
  out.moved = moved.value(), out.churn = churn.value(), out.class_information = information.value();
  out.tokens_per_second = median(std::move(rates));
  return out;
}

std::string csv_field(std::string const& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (char const c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

void write_results(std::string const& path, Comparison const& comparison) {
  std::string text =
      "router,seed,parameters,active_parameters,steps,tokens,seconds,stopped,training_loss,loss,bits_per_byte,perplexity,max_vio,"
      "entropy,dead,dropped,confidence,moved,churn,class_information,tokens_per_second\n";
  for (auto const& run : comparison.runs) {
    auto const s = summarise(run);
    text += fmt::format("{},{},{},{},{},{},{},{}", csv_field(run.router), run.seed, run.parameters, run.active_parameters, s.steps,
                        s.tokens, decimal(run.seconds), csv_field(run.stopped));
    for (double const x : {s.training_loss, s.loss, s.bits_per_byte, s.perplexity, s.max_vio, s.entropy, s.dead, s.dropped,
                           s.confidence, s.moved, s.churn, s.class_information, s.tokens_per_second})
      text.append(",").append(decimal(x));
    text += "\n";
  }
  io::AtomicFile file{path};
  file.write(text);
  file.commit();
}

}  // namespace program
