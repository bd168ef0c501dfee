// Trains the same small BlackMamba once for each router and seed, on the same text in the same order, and draws a report of what
// the routers did to loss, balance and speed.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <filesystem>

#include <blackmamba/layers/routers/list.hpp>

#include "support/program.hpp"
#include "support/progress.hpp"
#include "support/report.hpp"
#include "support/results.hpp"
#include "support/statistics.hpp"
#include "support/training.hpp"

// The build knows where the compiler keeps its headers.
#ifndef BLACKMAMBA_EXAMPLE_TEXT
#define BLACKMAMBA_EXAMPLE_TEXT "/usr/include/c++"
#endif

namespace {

using namespace blackmamba;
namespace fs = std::filesystem;

/// Set by the first Ctrl-C: the report is drawn from what there is.
volatile std::sig_atomic_t interrupted = 0;

std::vector<std::string> split(std::string const& list) {
  std::vector<std::string> out;
  for (std::size_t at = 0; at <= list.size();) {
    std::size_t const next = std::min(list.find(',', at), list.size());
    if (next > at) out.push_back(list.substr(at, next - at));
    at = next + 1;
  }
  return out;
}

std::vector<std::string> all_routers() {
  auto const names = Routers::names();
  return {names.begin(), names.end()};
}

/// Runs that an earlier call of the same comparison finished. Throws `file_error` if another comparison is there.
std::vector<program::Run> finished_runs(fs::path const& file, program::Comparison const& comparison) {
  if (!fs::exists(file)) return {};
  auto before = program::read_metrics(file.string());
  auto const differs = [&](std::string const& what, std::string const& then, std::string const& now) {
    throw file_error(
        concat(file.string(), ": holds another comparison: its ", what, " is ", then, ", not ", now, "; give another --out"));
  };
  if (before.settings.size() != comparison.settings.size()) differs("list of settings", "longer or shorter", "that of this one");
  for (std::size_t i = 0; i < before.settings.size(); ++i) {
    auto const &then = before.settings[i], &now = comparison.settings[i];
    if (then != now) differs(now.first, then.second, now.second);
  }
  std::erase_if(before.runs, [](program::Run const& run) { return run.stopped != "finished"; });
  return std::move(before.runs);
}

/// The table that ends the program: routers by their loss, and whether the difference to the best is more than chance.
void print_table(program::Comparison const& comparison, std::vector<std::string> const& routers, int seeds) {
  struct Row {
    std::string router;
    program::Spread bits, max_vio, dead, moved, speed;
    std::vector<double> by_seed;
  };
  std::vector<Row> rows;
  for (auto const& router : routers) {
    Row row{.router = router, .bits = {}, .max_vio = {}, .dead = {}, .moved = {}, .speed = {}, .by_seed = {}};
    row.by_seed.assign(static_cast<std::size_t>(seeds), std::nan(""));
    std::vector<double> bits, max_vio, dead, moved, speed;
    for (auto const& run : comparison.runs) {
      if (run.router != router || run.evals.empty()) continue;
      auto const summary = program::summarise(run);
      double const in_bits = summary.loss / std::log(2.0);
      row.by_seed[static_cast<std::size_t>(run.seed)] = in_bits;
      bits.push_back(in_bits), max_vio.push_back(summary.max_vio), dead.push_back(summary.dead), moved.push_back(summary.moved);
      speed.push_back(summary.tokens_per_second);
    }
    if (bits.empty()) continue;
    row.bits = program::spread(bits), row.max_vio = program::spread(max_vio), row.dead = program::spread(dead);
    row.moved = program::spread(moved), row.speed = program::spread(speed);
    rows.push_back(std::move(row));
  }
  std::sort(rows.begin(), rows.end(), [](Row const& a, Row const& b) { return a.bits.mean < b.bits.mean; });
  std::vector<std::vector<double>> values;
  for (auto const& row : rows) values.push_back(row.by_seed);
  auto const pairs = program::compare_pairs(values);

  fmt::print("\n{:<34} {:>17} {:>8} {:>7} {:>9} {:>9}  {}\n", "router", "bits a token", "MaxVio", "dead", "elsewhere", "tokens/s",
             "against the best");
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::string verdict = i == 0 ? "-" : seeds < 2 ? "one seed tells nothing" : "";
    for (auto const& pair : pairs)
      if (pair.first == 0 && pair.second == i && !std::isnan(pair.adjusted))
        verdict =
            fmt::format("{:+.3f}, p = {:.2g}{}", -pair.difference, pair.adjusted, pair.adjusted < 0.05 ? "" : " (may be chance)");
    fmt::print("{:<34} {:>8.3f} ± {:<6.3f} {:>8.2f} {:>7.2f} {:>8.1f}% {:>9.0f}  {}\n", rows[i].router, rows[i].bits.mean,
               rows[i].bits.deviation, rows[i].max_vio.mean, rows[i].dead.mean, 100 * rows[i].moved.mean, rows[i].speed.mean,
               verdict);
  }
  fmt::print(
      "\nThe text's unigram entropy is {:.3f} bits a token. MaxVio: the busiest expert's load over the mean, less 1. elsewhere: "
      "tokens that go to other experts at inference than in training.\n",
      comparison.unigram_entropy_bits);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Trains the same small BlackMamba with each of several routers and draws a report.", "compare_routers"};
  program::TrainingSettings settings;
  settings.steps = 100, settings.batch = 4, settings.evaluation_windows = 24;
  std::vector<std::string> data{BLACKMAMBA_EXAMPLE_TEXT};
  std::string list = "top1,switch,sinkhorn,bias", out;
  int seeds = 3;
  bool save_models = false;
  std::string known;
  for (auto const& name : all_routers()) known += concat(known.empty() ? "" : ", ", name);
  app.add_option("--data", data, "Files or folders of text; the compiler's own C++ headers if not given")->capture_default_str();
  app.add_option(
         "--routers", list,
         "Comma-separated, or all: " + known +
             "; options behind a name, as in bias:rate=0.01: top_k, normalise, capacity, z, balance, scope, rate, average, groups, "
             "groups_kept, iterations")
      ->capture_default_str();
  app.add_option("--seeds", seeds, "Runs of each router, each with its own first weights and order of the text")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--out", out, "Folder of report.html, results.csv, metrics.jsonl. The same command goes on where it was stopped")
      ->required();
  app.add_flag("--save-models", save_models, "Keep every trained model in OUT/models/, for score and generate");
  program::add_training_options(app, settings);

  return program::run(app, argc, argv, [&] {
    auto const routers = list == "all" ? all_routers() : split(list);
    check_value(!routers.empty(), "--routers", "names none");
    for (auto const& router : routers) {
      check_value(std::count(routers.begin(), routers.end(), router) == 1, "--routers", "names ", router, " more than once");
      program::configuration(settings, router);  // refuses what cannot be before anything is trained
    }
    program::Text text{data, settings};
    fs::path const folder{out}, metrics_file = folder / "metrics.jsonl";
    std::error_code failure;
    fs::create_directories(folder, failure);
    if (failure) throw file_error(concat(out, ": cannot be made: ", failure.message()));

    program::Comparison comparison;
    comparison.settings = program::described(settings);
    comparison.settings.emplace_back("text", fmt::format("{:016x}", text.corpus().fingerprint()));
    comparison.command = program::command_line(argc, argv);
    comparison.data = text.description();
    comparison.unigram_entropy_bits = text.corpus().unigram_entropy();
    comparison.runs = finished_runs(metrics_file, comparison);
    auto const is_finished = [&](std::string const& router, std::uint64_t seed) {
      return std::any_of(comparison.runs.begin(), comparison.runs.end(),
                         [&](auto const& run) { return run.router == router && run.seed == seed; });
    };
    bool const goes_on = fs::exists(metrics_file);
    program::MetricsWriter metrics{metrics_file.string(), goes_on};
    if (!goes_on) metrics.begin(comparison);

    Index const runs = static_cast<Index>(routers.size()) * seeds;
    Index done = 0;
    for (auto const& router : routers)
      for (int seed = 0; seed < seeds; ++seed) done += is_finished(router, static_cast<std::uint64_t>(seed)) ? settings.steps : 0;
    fmt::print("text     {}\nunigram  {:.3f} bits a token\nruns     {} routers × {} seeds × {} steps of {} tokens{}\n",
               text.description(), comparison.unigram_entropy_bits, routers.size(), seeds, settings.steps,
               settings.batch * settings.length * settings.passes,
               done ? fmt::format("; {} are done already", done / settings.steps) : std::string{});
    std::fflush(stdout);

    auto const write = [&] {
      program::write_results((folder / "results.csv").string(), comparison);
      program::write_report((folder / "report.html").string(), comparison);
    };
    std::signal(SIGINT, [](int) { interrupted = 1; });
    program::Progress progress{"step", runs * settings.steps, done};
    for (int seed = 0; seed < seeds && !interrupted; ++seed)
      for (auto const& router : routers) {
        if (interrupted) break;
        if (is_finished(router, static_cast<std::uint64_t>(seed))) continue;
        settings.seed = static_cast<std::uint64_t>(seed);
        text.shuffle(settings.seed);
        auto const config = program::configuration(settings, router);
        auto const training = program::begin_training_in<float>(settings, config, text);
        if (done == 0) {
          auto const plan = training->plan();
          fmt::print("memory   {:.1f} MB, {:.1f} of them activations\nthreads  {}\n", static_cast<double>(plan.total()) / 1e6,
                     static_cast<double>(plan.activations) / 1e6, training->threads());
          std::fflush(stdout);
        }
        program::Run run;
        run.router = router, run.seed = settings.seed;
        run.parameters = training->parameters().total, run.active_parameters = training->parameters().active;
        metrics.begin(run);
        program::RunLoop loop{*training, settings, text.corpus().is_bytes()};
        program::RunEvents const events{[&](program::StepRecord const& record) {
                                          metrics.step(run, record);
                                          run.steps.push_back(record);
                                          progress.show(done + record.step,
                                                        fmt::format("{} seed {}: loss {:.3f}, {:.0f} tokens/s", router, seed,
                                                                    record.loss, record.tokens_per_second));
                                        },
                                        [&](program::EvalRecord const& record) {
                                          metrics.eval(run, record);
                                          run.evals.push_back(record);
                                        }};
        try {
          run.stopped = loop.run(settings.steps, events, [](Index) { return !interrupted; }) ? "finished" : "interrupted";
        } catch (value_error const& e) {  // a run that diverges is a result, and the others go on
          run.stopped = e.what();
          progress.pause();
          fmt::print(stderr, "{} seed {}: {}\n", router, seed, e.what());
        }
        run.seconds = loop.seconds;
        metrics.end(run);
        if (save_models) training->save(folder / "models" / fmt::format("{}-{}", router, seed));
        comparison.runs.push_back(std::move(run));
        done += settings.steps;
        write();  // what there is so far
      }
    progress.pause();
    write();
    print_table(comparison, routers, seeds);
    fmt::print("report   {}/report.html\n", out);
  });
}
