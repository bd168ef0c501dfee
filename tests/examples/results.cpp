#include "support/results.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

using namespace program;

namespace {

/// A run of `steps` steps with two mixture layers of even load.
Run run_of(Index steps) {
  Run run;
  run.router = "a, \"b\"", run.seed = 7, run.parameters = 10, run.active_parameters = 5, run.seconds = 1.5,
  run.stopped = "finished";
  for (Index i = 1; i <= steps; ++i) {
    StepRecord r;
    r.step = i, r.tokens = 8 * i, r.loss = static_cast<double>(i), r.tokens_per_second = static_cast<double>(i);
    for (Index const layer : {1, 3}) {
      RoutingStats s;
      s.layer = layer, s.tokens = 8, s.load = {4, 4};
      s.balance = load_balance(s.load), s.dropped = layer == 1 ? 2 : 0;
      r.layers.push_back(s);
    }
    run.steps.push_back(r);
  }
  return run;
}

}  // namespace

TEST_CASE("results: the end of a run is its last tenth, at least a step") {
  for (Index const steps : {1, 2, 9, 10, 11, 40}) {
    Run run = run_of(steps);
    Index const tail = (steps + 9) / 10;
    CHECK(last_tenth(run) == tail);
    for (std::size_t i = run.steps.size() - static_cast<std::size_t>(tail); i < run.steps.size(); ++i)
      for (auto& layer : run.steps[i].layers) layer.load = {8, 0}, layer.balance = load_balance(layer.load);
    auto const s = summarise(run);
    CHECK(s.steps == steps);
    CHECK(s.tokens == 8 * steps);
    CHECK(s.max_vio == 1);
    CHECK(s.entropy == 0);
    CHECK(s.dead == 1);
    CHECK(s.dropped == 0.125);
    CHECK(s.training_loss == static_cast<double>(2 * steps - tail + 1) / 2);
    CHECK(s.tokens_per_second == static_cast<double>(steps + 1) / 2);
    CHECK(std::isnan(s.bits_per_byte));
  }
}

TEST_CASE("results: a run without a step or an evaluation knows nothing, and that is no error") {
  auto const s = summarise(Run{});
  CHECK(s.steps == 0);
  CHECK(std::isnan(s.training_loss));
  CHECK(std::isnan(s.loss));
  CHECK(std::isnan(s.max_vio));
  CHECK(std::isnan(s.dropped));
  CHECK(std::isnan(s.tokens_per_second));
}

TEST_CASE("results: fields that hold a comma, a quote or a line end are quoted, others are not") {
  CHECK(csv_field("plain text") == "plain text");
  CHECK(csv_field("") == "");
  CHECK(csv_field("a,b") == "\"a,b\"");
  CHECK(csv_field("say \"a\"") == "\"say \"\"a\"\"\"");
  CHECK(csv_field("a\nb") == "\"a\nb\"");
}

TEST_CASE("results: the file has a line for each run, and nothing where a number is not known") {
  auto const path =
      (std::filesystem::temp_directory_path() / ("blackmamba-results-" + std::to_string(::getpid()) + ".csv")).string();
  Comparison comparison;
  comparison.runs = {run_of(4), Run{}};
  comparison.runs[1].router = "topk";
  write_results(path, comparison);
  std::stringstream text;
  text << std::ifstream{path}.rdbuf();
  std::filesystem::remove(path);
  std::string names, first, second, more;
  std::getline(text, names), std::getline(text, first), std::getline(text, second);
  CHECK(names.substr(0, 31) == "router,seed,parameters,active_p");
  CHECK(first.substr(0, 45) == "\"a, \"\"b\"\"\",7,10,5,4,32,1.5,finished,4,,,,0,1,");
  CHECK(second == "topk,0,0,0,0,0,0,,,,,,,,,,,,,,");
  CHECK_FALSE(std::getline(text, more));
  CHECK(std::count(names.begin(), names.end(), ',') == std::count(second.begin(), second.end(), ','));
  CHECK_THROWS_AS(write_results("nowhere/results.csv", comparison), file_error);
}
