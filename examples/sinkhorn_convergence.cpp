// Does Sinkhorn's iteration converge sooner from the BlackMamba paper's start? Iterations, marginal error and balance against
// tolerance, from three starts, on two kinds of logits.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

#include <blackmamba/core/random.hpp>
#include <blackmamba/core/tensor.hpp>
#include <blackmamba/io/atomic_file.hpp>
#include <blackmamba/ops/sinkhorn/sinkhorn.hpp>
#include <blackmamba/train/telemetry.hpp>

#include "support/plot.hpp"
#include "support/program.hpp"

namespace {

using namespace blackmamba;
namespace plot = program::plot;

struct Options {
  Index tokens = 4096, experts = 8, seeds = 5, most = 60;
  double sharpness = 2, spread = 1, drift = 0.05;
  std::uint64_t seed = 0;
  std::string out;
};

enum class Kind { gaussian, clustered };
enum class Start { cold, published, warm };
constexpr std::array kinds{Kind::gaussian, Kind::clustered};
constexpr std::array starts{Start::cold, Start::published, Start::warm};
constexpr std::array<char const*, 3> start_names{"cold (ones)", "published (column sums)", "warm (previous batch)"};
constexpr Index longest = 1000;  // iterations, where a tolerance is what ends them
constexpr std::array tolerances{1e-1, 1e-2, 1e-3, 1e-4, 1e-6};

char const* name(Kind kind) { return kind == Kind::gaussian ? "gaussian" : "clustered"; }

/// Logits of one batch. Gaussian: a bias for each expert and noise, both of deviation `spread`. Clustered: 16 kinds of tokens, the
/// k-th with weight 1 / k, each with its own row of logits and noise of a quarter of the spread. Batch 1 comes after batch 0: its
/// biases and rows have drifted.
Tensor<double, 2> logits_of(Kind kind, Options const& o, Index seed, Index batch) {
  auto const stream = [&](std::uint64_t what) {
    return Random{o.seed + static_cast<std::uint64_t>(seed), 4 * what + static_cast<std::uint64_t>(kind)};
  };
  constexpr Index clusters = 16;
  Index const E = o.experts, rows = kind == Kind::gaussian ? 1 : clusters;
  Random const base = stream(0), moved = stream(1), noise = stream(2 + static_cast<std::uint64_t>(batch)),
               choice = stream(4 + static_cast<std::uint64_t>(batch));
  Tensor<double, 2> centres{Shape<2>{rows, E}};
  for (Index i = 0; i < centres.size(); ++i) {
    auto const at = static_cast<std::uint64_t>(i);
    centres.data()[i] = o.spread * base.normal(at) + (batch ? o.drift * moved.normal(at) : 0);
  }
  double weights = 0;
  for (Index k = 1; k <= rows; ++k) weights += 1.0 / static_cast<double>(k);
  Tensor<double, 2> out{Shape<2>{o.tokens, E}};
  double const deviation = o.spread * (kind == Kind::gaussian ? 1 : 0.25);
  for (Index i = 0; i < o.tokens; ++i) {
    double left = choice.uniform(static_cast<std::uint64_t>(i)) * weights;
    Index row = 0;
    while (row + 1 < rows && (left -= 1.0 / static_cast<double>(row + 1)) > 0) ++row;
    for (Index j = 0; j < E; ++j) out(i, j) = centres(row, j) + deviation * noise.normal(static_cast<std::uint64_t>(i * E + j));
  }
  return out;
}

/// MaxVio of sending every token to the largest entry of its row.
double violation(View<double const, 2> scores) {
  std::vector<Index> load(static_cast<std::size_t>(scores.extent(1)));
  for (Index i = 0; i < scores.extent(0); ++i) {
    Index best = 0;
    for (Index j = 1; j < scores.extent(1); ++j)
      if (scores(i, j) > scores(i, best)) best = j;
    ++load[static_cast<std::size_t>(best)];
  }
  return load_balance(load).max_vio;
}

/// After k = 1, 2, … iterations, means over the seeds.
struct Curve {
  std::vector<double> error, max_vio;
  std::array<double, tolerances.size()>
      iterations{};  ///< to a marginal error within the tolerance; NaN where a seed does not get there
  std::array<double, tolerances.size()> max_vio_there{};  ///< MaxVio at that iteration
};

/// The published codes' own rule: stop when d1 changes by no more than the tolerance.
struct Stop {
  double iterations = 0;  ///< NaN where a seed does not stop within `longest`
  double error = 0, max_vio = 0;
};

struct Study {
  double of_logits = 0;  ///< MaxVio without any plan
  std::array<Curve, starts.size()> curves;
  std::array<std::array<Stop, tolerances.size()>, 2> stops;  ///< from ones, from column sums
};

/// The logarithm of the scaling that each start begins with; the same iteration then runs on logarithms, so that starts are all
/// that differs.
Tensor<double, 1> potentials_of(Start start, Cpu const& ctx, Options const& o, View<double const, 2> logits,
                                View<double const, 2> before, View<double, 2> plan) {
  Tensor<double, 1> out{Shape<1>{o.experts}};
  for (Index j = 0; j < o.experts; ++j) out(j) = 0;
  if (start == Start::published)
    for (Index j = 0; j < o.experts; ++j) {
      double sum = 0;
      for (Index i = 0; i < o.tokens; ++i) sum += std::exp(o.sharpness * logits(i, j));
      out(j) = -std::log(static_cast<double>(o.experts) * sum);
    }
  if (start == Start::warm)
    sinkhorn_log(ctx, SinkhornLogArgs<double>{.logits = before,
                                              .plan = plan,
                                              .tolerance = 1e-9,
                                              .max_iterations = longest,
                                              .potentials = out,
                                              .sharpness = o.sharpness});
  return out;
}

Study study(Kind kind, Options const& o) {
  Cpu const ctx;
  Study out;
  Tensor<double, 2> plan{Shape<2>{o.tokens, o.experts}};
  double const share = 1.0 / static_cast<double>(o.seeds);
  for (Index seed = 0; seed < o.seeds; ++seed) {
    auto const before = logits_of(kind, o, seed, 0), logits = logits_of(kind, o, seed, 1);
    out.of_logits += share * violation(logits);
    for (std::size_t s = 0; s < starts.size(); ++s) {
      auto& curve = out.curves[s];
      curve.error.resize(static_cast<std::size_t>(o.most)), curve.max_vio.resize(curve.error.size());
      auto const begin = potentials_of(starts[s], ctx, o, logits, before, plan);
      std::array<bool, tolerances.size()> there{};
      for (Index k = 1; k <= o.most; ++k) {
        auto potentials = converted<double>(begin);
        auto const report = sinkhorn_log(ctx, SinkhornLogArgs<double>{.logits = logits,
                                                                      .plan = plan,
                                                                      .tolerance = 0,
                                                                      .max_iterations = k,
                                                                      .potentials = potentials,
                                                                      .sharpness = o.sharpness});
        double const max_vio = violation(plan);
        auto const at = static_cast<std::size_t>(k - 1);
        curve.error[at] += share * report.marginal_error, curve.max_vio[at] += share * max_vio;
        for (std::size_t t = 0; t < tolerances.size(); ++t)
          if (!there[t] && report.marginal_error <= tolerances[t])
            there[t] = true, curve.iterations[t] += share * static_cast<double>(k), curve.max_vio_there[t] += share * max_vio;
      }
      for (std::size_t t = 0; t < tolerances.size(); ++t)
        if (!there[t]) curve.iterations[t] = curve.max_vio_there[t] = std::numeric_limits<double>::quiet_NaN();
    }
    for (std::size_t s = 0; s < out.stops.size(); ++s)
      for (std::size_t t = 0; t < tolerances.size(); ++t) {
        auto const report = sinkhorn(ctx, SinkhornArgs<double>{.logits = logits,
                                                               .plan = plan,
                                                               .tolerance = tolerances[t],
                                                               .max_iterations = longest,
                                                               .sharpness = o.sharpness,
                                                               .start = s == 0 ? SinkhornStart::ones : SinkhornStart::column_sums});
        auto& stop = out.stops[s][t];
        stop.iterations +=
            report.converged ? share * static_cast<double>(report.iterations) : std::numeric_limits<double>::quiet_NaN();
        stop.error += share * report.marginal_error, stop.max_vio += share * violation(plan);
      }
  }
  return out;
}

std::string number(double x, int digits = 3) { return x == x ? plot::readable(x, digits) : "never"; }

/// The tables, once for the terminal and once for the page: `row` gets the cells of each line.
template <class Heading, class Row>
void tabulate(Kind kind, Options const& o, Study const& s, Heading const& heading, Row const& row) {
  heading(fmt::format("{} logits: {} tokens, {} experts, mean over {} seeds. Without a plan the argmax has MaxVio {}.", name(kind),
                      o.tokens, o.experts, o.seeds, number(s.of_logits)),
          "Iterations until the marginal error is within a tolerance, and MaxVio of the plan's argmax there");
  row("tolerance", start_names[0], "MaxVio", start_names[1], "MaxVio", start_names[2], "MaxVio");
  for (std::size_t t = 0; t < tolerances.size(); ++t)
    row(fmt::format("{:g}", tolerances[t]), number(s.curves[0].iterations[t]), number(s.curves[0].max_vio_there[t]),
        number(s.curves[1].iterations[t]), number(s.curves[1].max_vio_there[t]), number(s.curves[2].iterations[t]),
        number(s.curves[2].max_vio_there[t]));
  heading("", "Stopped as the published codes stop, when the columns' scaling changes by no more than the tolerance");
  row("tolerance", start_names[0], "error", "MaxVio", start_names[1], "error", "MaxVio");
  for (std::size_t t = 0; t < tolerances.size(); ++t) {
    auto const &ones = s.stops[0][t], &sums = s.stops[1][t];
    row(fmt::format("{:g}", tolerances[t]), number(ones.iterations), number(ones.error), number(ones.max_vio),
        number(sums.iterations), number(sums.error), number(sums.max_vio));
  }
}

void print(Kind kind, Options const& o, Study const& s) {
  tabulate(
      kind, o, s,
      [](std::string const& about, char const* what) {
        if (!about.empty()) fmt::print("{}\n", about);
        fmt::print("\n{}\n", what);
      },
      [](auto const&... cells) {
        int column = 0;
        ((fmt::print("{:>{}}", cells, column++ == 0 ? 9 : 25)), ...);
        fmt::print("\n");
      });
  fmt::print("\n");
}

std::string section(Kind kind, Options const& o, Study const& s) {
  std::string out;
  bool open = false, head = false;
  tabulate(
      kind, o, s,
      [&](std::string const& about, char const* what) {
        if (open) out += "</tbody></table></div>";
        if (!about.empty())
          out +=
              "<h2>" + std::string{kind == Kind::gaussian ? "Gaussian logits" : "Clustered logits"} + "</h2><p>" + about + "</p>";
        out += fmt::format("<h3>{}</h3><div class=\"scroll\"><table><tbody>", what);
        open = head = true;
      },
      [&](auto const&... cells) {
        out += "<tr>";
        ((out += fmt::format(fmt::runtime(head ? "<th>{}</th>" : "<td>{}</td>"), cells)), ...);
        out += "</tr>";
        head = false;
      });
  out += "</tbody></table></div>";
  plot::LineChart error{.x_label = "iterations", .y_label = "marginal error", .series = {}, .log_y = true, .lines = {}};
  plot::LineChart balance{.x_label = "iterations",
                          .y_label = "MaxVio of the argmax",
                          .series = {},
                          .log_x = true,
                          .lines = {{s.of_logits, "argmax of the logits"}},
                          .from_zero = true};
  for (std::size_t k = 0; k < starts.size(); ++k) {
    plot::Series series{.name = start_names[k], .x = {}, .y = s.curves[k].error, .low = {}, .high = {}, .style = k};
    for (std::size_t i = 0; i < series.y.size(); ++i) series.x.push_back(static_cast<double>(i + 1));
    error.series.push_back(series);
    series.y = s.curves[k].max_vio;
    balance.series.push_back(series);
  }
  out += "<figure>" + draw(error) +
         "<figcaption>A start is worth the iterations by which its line lies to the left; parallel lines converge equally fast "
         "from there.</figcaption></figure>";
  out += "<figure>" + draw(balance) +
         "<figcaption>How even the experts' load is after so many iterations: 0 is even, and the dashed line is no plan at "
         "all.</figcaption></figure>";
  return out;
}

void write_page(Options const& o, std::array<Study, kinds.size()> const& studies) {
  std::string page =
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width,initial-scale=1\">"
      "<title>Starts of Sinkhorn's iteration</title><style>" +
      plot::style() +
      "body{margin:0 auto;max-width:62rem;padding:1rem;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}"
      "p{max-width:46rem}h3{font-size:1rem}.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-"
      "nums}"
      "td,th{padding:.3rem .7rem;border-bottom:1px solid var(--rule);text-align:right}</style></head><body>"
      "<h1>Starts of Sinkhorn's iteration</h1>";
  page += fmt::format(
      "<p>Iterations, marginal error and balance from three starts. Sharpness {:g}, spread of the logits {:g}, drift between "
      "batches {:g}, "
      "seeds from {} on.</p>",
      o.sharpness, o.spread, o.drift, o.seed);
  for (std::size_t k = 0; k < kinds.size(); ++k) page += section(kinds[k], o, studies[k]);
  io::AtomicFile file{o.out};
  file.write(page + "</body></html>\n");
  file.commit();
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app{"Compares starts of Sinkhorn's iteration: iterations, marginal error and balance against tolerance.",
               "sinkhorn_convergence"};
  app.add_option("--tokens", o.tokens, "Tokens of a batch")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--experts", o.experts, "Experts")->check(CLI::Range(1, 1024))->capture_default_str();
  app.add_option("--seeds", o.seeds, "Batches to average over")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--iterations", o.most, "Most iterations to try")->check(CLI::Range(1, 10000))->capture_default_str();
  app.add_option("--sharpness", o.sharpness, "What logits are multiplied by: 2 as published, 1 in Megatron")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--spread", o.spread, "Standard deviation of the logits' parts")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--drift", o.drift, "How far the logits move from the batch that warms the next one")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--seed", o.seed, "First seed")->capture_default_str();
  app.add_option("--out", o.out, "Also write a page with plots to this file");
  return program::run(app, argc, argv, [&] {
    std::array<Study, kinds.size()> studies;
    for (std::size_t k = 0; k < kinds.size(); ++k) {
      studies[k] = study(kinds[k], o);
      print(kinds[k], o, studies[k]);
    }
    if (!o.out.empty()) write_page(o, studies);
  });
}
