#include "support/metrics.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

using namespace program;

namespace {

/// A file of its own for each test, removed with it.
struct Scratch {
  std::string path =
      (std::filesystem::temp_directory_path() / ("blackmamba-metrics-" + std::to_string(::getpid()) + ".jsonl")).string();
  ~Scratch() { std::filesystem::remove(path); }
};

StepRecord step_record(Index step) {
  StepRecord r;
  r.step = step, r.tokens = 512 * step, r.seconds = 0.1 * static_cast<double>(step);
  r.loss = 5.0 / static_cast<double>(step), r.auxiliary = 1e-3, r.learning_rate = 3e-4, r.gradient_norm = 1.0 / 3;
  r.tokens_per_second = 5120.5;
  for (Index const layer : {1, 3}) {
    RoutingStats s;
    s.layer = layer, s.tokens = 512, s.load = {500, 0, 12}, s.balance = load_balance(s.load);
    s.confidence = 0.7, s.margin = 0.1, s.logit_rms = 1.5, s.dropped = 4, s.unrouted = 2, s.loss = 0.01, s.z_loss = 0.02;
    s.iterations = 17, s.marginal_error = 1e-3;
    if (layer == 3) s.moved = 0.25;
    r.layers.push_back(s);
  }
  return r;
}

EvalRecord eval_record(Index step) {
  EvalRecord r;
  r.step = step, r.tokens = 512 * step, r.loss = 2.5, r.bits_per_byte = 2.5 / std::log(2.0), r.perplexity = std::exp(2.5);
  LayerEval layer;
  layer.layer = 1, layer.moved = 0.5;
  if (step > 0) layer.churn = 0.125;
  for (Index i = 0; i < 3 * byte_classes; ++i) layer.counts.push_back(i * i);
  r.layers.push_back(layer);
  return r;
}

Comparison comparison() {
  Comparison c;
  c.settings = {{"preset", "tiny"}, {"steps", "300"}, {"a \"quoted\" name", "<b>\n"}};
  c.command = "compare_routers --data 'a b'", c.data = "4 files", c.unigram_entropy_bits = 4.75;
  for (std::uint64_t const seed : {0, 1}) {
    Run run;
    run.router = seed ? "sinkhorn" : "top1", run.seed = seed + (1ull << 63), run.parameters = 123456, run.active_parameters = 6543;
    run.seconds = 12.5, run.stopped = "finished";
    run.evals.push_back(eval_record(0));
    for (Index step = 1; step <= 3; ++step) run.steps.push_back(step_record(step));
    run.evals.push_back(eval_record(3));
    c.runs.push_back(run);
  }
  return c;
}

void write(MetricsWriter& out, Run const& run) {
  out.begin(run);
  out.eval(run, run.evals[0]);
  for (auto const& r : run.steps) out.step(run, r);
  out.eval(run, run.evals[1]);
  out.end(run);
}

void check_same(StepRecord const& a, StepRecord const& b) {
  CHECK(a.step == b.step);
  CHECK(a.tokens == b.tokens);
  CHECK(a.seconds == b.seconds);
  CHECK(a.loss == b.loss);
  CHECK(a.auxiliary == b.auxiliary);
  CHECK(a.learning_rate == b.learning_rate);
  CHECK(a.gradient_norm == b.gradient_norm);
  CHECK(a.tokens_per_second == b.tokens_per_second);
  REQUIRE(a.layers.size() == b.layers.size());
  for (std::size_t i = 0; i < a.layers.size(); ++i) {
    auto const &x = a.layers[i], &y = b.layers[i];
    CHECK(x.layer == y.layer);
    CHECK(x.tokens == y.tokens);
    CHECK(x.load == y.load);
    CHECK(x.balance.max_vio == y.balance.max_vio);
    CHECK(x.balance.dead == y.balance.dead);
    CHECK(x.confidence == y.confidence);
    CHECK(x.margin == y.margin);
    CHECK(x.logit_rms == y.logit_rms);
    CHECK(x.dropped == y.dropped);
    CHECK(x.unrouted == y.unrouted);
    CHECK(x.loss == y.loss);
    CHECK(x.z_loss == y.z_loss);
    CHECK(x.iterations == y.iterations);
    CHECK(x.marginal_error == y.marginal_error);
    CHECK(x.moved == y.moved);
  }
}

void check_same(EvalRecord const& a, EvalRecord const& b) {
  CHECK(a.step == b.step);
  CHECK(a.tokens == b.tokens);
  CHECK(a.loss == b.loss);
  CHECK(a.bits_per_byte == b.bits_per_byte);
  CHECK(a.perplexity == b.perplexity);
  REQUIRE(a.layers.size() == b.layers.size());
  for (std::size_t i = 0; i < a.layers.size(); ++i) {
    CHECK(a.layers[i].layer == b.layers[i].layer);
    CHECK(a.layers[i].churn == b.layers[i].churn);
    CHECK(a.layers[i].moved == b.layers[i].moved);
    CHECK(a.layers[i].counts == b.layers[i].counts);
  }
}

void check_same(Comparison const& a, Comparison const& b) {
  CHECK(a.settings == b.settings);
  CHECK(a.command == b.command);
  CHECK(a.data == b.data);
  CHECK(a.unigram_entropy_bits == b.unigram_entropy_bits);
  REQUIRE(a.runs.size() == b.runs.size());
  for (std::size_t i = 0; i < a.runs.size(); ++i) {
    auto const &x = a.runs[i], &y = b.runs[i];
    CHECK(x.router == y.router);
    CHECK(x.seed == y.seed);
    CHECK(x.parameters == y.parameters);
    CHECK(x.active_parameters == y.active_parameters);
    CHECK(x.seconds == y.seconds);
    CHECK(x.stopped == y.stopped);
    REQUIRE(x.steps.size() == y.steps.size());
    REQUIRE(x.evals.size() == y.evals.size());
    for (std::size_t k = 0; k < x.steps.size(); ++k) check_same(x.steps[k], y.steps[k]);
    for (std::size_t k = 0; k < x.evals.size(); ++k) check_same(x.evals[k], y.evals[k]);
  }
}

}  // namespace

TEST_CASE("metrics: what was written is read back, every field of it") {
  Scratch const scratch;
  auto const wanted = comparison();
  {
    MetricsWriter out{scratch.path};
    out.begin(wanted);
    for (auto const& run : wanted.runs) write(out, run);
  }
  check_same(read_metrics(scratch.path), wanted);
}

TEST_CASE("metrics: records are in the file as soon as they are written, and runs may alternate") {
  Scratch const scratch;
  auto const wanted = comparison();
  MetricsWriter out{scratch.path};
  out.begin(wanted);
  out.begin(wanted.runs[0]);
  out.begin(wanted.runs[1]);
  out.step(wanted.runs[1], wanted.runs[1].steps[0]);
  out.step(wanted.runs[0], wanted.runs[0].steps[0]);
  auto const got = read_metrics(scratch.path);
  REQUIRE(got.runs.size() == 2);
  check_same(got.runs[0].steps.at(0), wanted.runs[0].steps[0]);
  check_same(got.runs[1].steps.at(0), wanted.runs[1].steps[0]);
  CHECK(got.runs[0].stopped.empty());
}

TEST_CASE("metrics: a file cut anywhere in its last line reads as if the line were not there, and can be continued") {
  auto const wanted = comparison();
  for (int const cut : {1, 2, 40}) {
    Scratch const scratch;
    {
      MetricsWriter out{scratch.path};
      out.begin(wanted);
      write(out, wanted.runs[0]);
      out.begin(wanted.runs[1]);
      out.eval(wanted.runs[1], wanted.runs[1].evals[0]);
      for (auto const& r : wanted.runs[1].steps) out.step(wanted.runs[1], r);
    }
    std::filesystem::resize_file(scratch.path, std::filesystem::file_size(scratch.path) - static_cast<std::uintmax_t>(cut));
    CHECK(read_metrics(scratch.path).runs.at(1).steps.size() == 2);
    {
      MetricsWriter out{scratch.path, true};
      out.begin(wanted.runs[1]);
      out.step(wanted.runs[1], wanted.runs[1].steps[2]);
      out.eval(wanted.runs[1], wanted.runs[1].evals[1]);
      out.end(wanted.runs[1]);
    }
    check_same(read_metrics(scratch.path), wanted);
  }
}

TEST_CASE("metrics: steps that a resumed run does again replace what it had done") {
  Scratch const scratch;
  auto const wanted = comparison();
  auto late = wanted.runs[1];
  for (auto& r : late.steps) r.loss = 99;
  late.evals[1].loss = 99;
  {
    MetricsWriter out{scratch.path};
    out.begin(wanted);
    write(out, wanted.runs[0]);
    write(out, late);
  }
  {
    MetricsWriter out{scratch.path, true};
    write(out, wanted.runs[1]);
  }
  check_same(read_metrics(scratch.path), wanted);
}

TEST_CASE("metrics: a loss that is not a number comes back as one that is not") {
  Scratch const scratch;
  auto run = comparison().runs[0];
  run.steps[0].loss = std::numeric_limits<double>::quiet_NaN();
  {
    MetricsWriter out{scratch.path};
    write(out, run);
  }
  auto const got = read_metrics(scratch.path);
  CHECK(std::isnan(got.runs.at(0).steps.at(0).loss));
  CHECK(got.runs[0].steps.at(1).loss == run.steps[1].loss);
}

TEST_CASE("metrics: a file that is not one is refused with its line") {
  Scratch const scratch;
  auto const refused = [&](std::string const& text, std::string const& part) {
    std::ofstream{scratch.path} << text;
    INFO(text);
    try {
      read_metrics(scratch.path);
      FAIL("accepted");
    } catch (file_error const& e) {
      CHECK(std::string{e.what()}.find(part) != std::string::npos);
    }
  };
  refused("{}\n", "line 1: ");
  refused("{\"record\":\"run\",\"router\":\"a\",\"seed\":0,\"parameters\":1,\"active_parameters\":1}\nnonsense\n", "line 2: ");
  refused("{\"record\":\"end\",\"router\":\"a\",\"seed\":3,\"seconds\":1,\"stopped\":\"\"}\n", "has not begun: a with seed 3");
  refused("{\"record\":\"run\",\"router\":\"a\",\"seed\":0,\"parameters\":\"x\",\"active_parameters\":1}\n", "line 1: ");
  CHECK_THROWS_AS(read_metrics("nowhere/metrics.jsonl"), file_error);
  CHECK_THROWS_AS(MetricsWriter("nowhere/metrics.jsonl"), file_error);
}
