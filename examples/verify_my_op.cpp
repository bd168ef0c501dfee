// Your own version of an operation, checked against the reference with one call.

#include <fmt/core.h>
#include <CLI/CLI.hpp>
#include <blackmamba/verify/problems/rms_norm.hpp>
#include <nlohmann/json.hpp>

using namespace blackmamba;

// [function]
/// RMSNorm with four partial sums, so that the compiler may overlap the additions. `tail` is the part that is easy to forget.
template <class T>
void my_rms_norm(RmsNormArgs<T> const& args, bool tail) {
  using A = accumulator_t<T>;
  Index const rows = args.y.extent(0), D = args.y.extent(1);
  for (Index r = 0; r < rows; ++r) {
    auto const value = [&](Index i) { return args.residual ? args.residual(r, i) : widen(args.x(r, i)); };
    if (args.residual && args.x)
      for (Index i = 0; i < D; ++i) args.residual(r, i) += widen(args.x(r, i));
    A sums[4]{};
    Index i = 0;
    for (; i + 4 <= D; i += 4)
      for (Index lane = 0; lane < 4; ++lane) sums[lane] += value(i + lane) * value(i + lane);
    for (; tail && i < D; ++i) sums[0] += value(i) * value(i);
    A const scale = 1 / std::sqrt((sums[0] + sums[1] + sums[2] + sums[3]) / static_cast<A>(D) + static_cast<A>(args.epsilon));
    for (i = 0; i < D; ++i) args.y(r, i) = static_cast<T>(value(i) * scale * widen(args.weight(i)));
  }
}
// [function]

// [check]
/// Awkward sizes, inputs from a seed, outputs that start as NaN, the exact answer, and the error as a share of what is allowed.
template <Scalar T>
verify::Report check_mine(verify::Options const& options, bool tail) {
  return verify::check_with<verify::RmsNormProblem, T>([=](auto const& args) { my_rms_norm(args, tail); }, options);
}
// [check]

nlohmann::json to_json(verify::Report const& report) {
  auto results = nlohmann::json::array();
  for (auto const& r : report.results) {
    // JSON has no infinity: the share of an output that is not a number is null.
    auto const share = std::isfinite(r.comparison.share) ? nlohmann::json(r.comparison.share) : nlohmann::json();
    results.push_back({{"size", r.size}, {"output", r.output}, {"share", share}, {"failure", r.failure}});
  }
  return {{"title", report.title}, {"holds", static_cast<bool>(report)}, {"results", results}};
}

int main(int argc, char** argv) {
  CLI::App app{"Checks an RMSNorm of its own against the library's reference, for every scalar; exit status 1 if it is wrong.",
               "verify_my_op"};
  verify::Options options;
  bool broken = false, json = false;
  app.add_option("--seed", options.seed, "Seed of the inputs")->capture_default_str();
  app.add_option("--repetitions", options.repetitions, "Problems of each size")->capture_default_str()->check(CLI::Range(1, 1000));
  app.add_flag("--break", broken, "Plant a bug, the last D mod 4 elements are forgotten, and see it caught");
  app.add_flag("--json", json, "Print every result as JSON");
  CLI11_PARSE(app, argc, argv);

  verify::Report const reports[]{check_mine<float>(options, !broken), check_mine<double>(options, !broken),
                                 check_mine<half>(options, !broken), check_mine<bf16>(options, !broken)};
  bool holds = true;
  auto all = nlohmann::json::array();
  for (auto const& report : reports) {
    holds = holds && report;
    if (json) all.push_back(to_json(report));
    if (!json && !report) fmt::print("{}\n", report.table());
    if (!json)
      fmt::print("{}: {} outputs, largest share of the allowed error {:.3f}, {}\n", report.title, report.results.size(),
                 report.share(), report ? "ok" : "FAILED");
  }
  if (json) fmt::print("{}\n", all.dump(2));
  return holds ? 0 : 1;
}
