// A training step of the preset `tiny`, 8 windows of 256 tokens, on all threads: what share of the time its products with weights
// alone would take at the ceiling, where the rest goes, and what telemetry and recomputing cost. The ceiling is measured in the
// same run, in turn with the steps.
//
// The products of a token take 2 operations a weight forwards and 4 backwards; what is computed twice, as the first map of an
// expert is, counts once. The rate of learning is 0, so the load of the experts stays that of the first weights.

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <blackmamba/core/eigen.hpp>
#include <blackmamba/model/networks.hpp>
#include <blackmamba/train/trainer.hpp>

namespace {

using namespace blackmamba;
using Net = BlackMamba<>;
using Clock = std::chrono::steady_clock;

constexpr Dims dims = blackmamba_tiny;
constexpr Index length = 256, sequences = 8, tokens = length * sequences;

/// Of the products with weights, forwards and backwards.
constexpr double linear_flops() {
  constexpr Index rest = dims.depth * dims.inner() * (9 * dims.d_state + 2 * dims.d_conv);
  return 3.0 * static_cast<double>((flops_per_token<Net>(dims) - rest) * tokens);
}

/// Documents of bytes drawn at random, of lengths like those of source files.
MemorySource text() {
  MemorySource out;
  Random const random{1};
  std::uint64_t drawn = 0;
  for (Index i = 0; i < 64; ++i) {
    auto& document = out.text.emplace_back(static_cast<std::size_t>(1000 + random.below(drawn++, 20000)));
    for (auto& token : document) token = static_cast<Token>(random.below(drawn++, dims.vocab));
  }
  return out;
}

template <class T>
struct Training {
  MemorySource source = text();
  TrainingWindows<MemorySource> windows{source, {.length = length, .sequences = sequences, .seed = 1}};
  TokenBatch batch = windows.make_batch();
  Model<Net, T, Cpu> model{dims};
  std::unique_ptr<Trainer<Net, T, Cpu>> trainer;

  explicit Training(TrainerOptions options = {}) {
    model.initialise(1);
    options.schedule = {.kind = ScheduleKind::constant, .peak = 0};
    trainer = std::make_unique<Trainer<Net, T, Cpu>>(model, options);
    trainer->plan(batch);
  }
  void step() {
    benchmark::DoNotOptimize(trainer->step([&](Index) -> TokenBatch const& {
      windows.fill(trainer->steps() * sequences, batch);
      return batch;
    }));
  }
  double timed_step() {
    auto const begin = Clock::now();
    step();
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }
};

double quantile(std::vector<double>& of, double which) {
  auto const at = of.begin() + static_cast<std::ptrdiff_t>(which * static_cast<double>(of.size()));
  std::nth_element(of.begin(), at, of.end());
  return *at;
}
double median(std::vector<double>& of) { return quantile(of, 0.5); }

/// Eigen's product, one on each thread, as in support/ceilings.hpp, but once between any two steps: where the clock and the
/// neighbours of a shared host change from second to second, both see the same of it.
class Product {
 public:
  Product() {
    for (auto* const matrices : {&a_, &b_, &c_})
      for (int t = 0; t < threads_; ++t) matrices->push_back(Matrix::Random(side, side));
  }
  /// Operations per second.
  double rate() {
    auto const begin = Clock::now();
    parallel_for(threads_, threads_, [&](Index t) {
      auto const i = static_cast<std::size_t>(t);
      c_[i].noalias() = a_[i] * b_[i];
      benchmark::DoNotOptimize(c_[i].data());
    });
    double const seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    return 2.0 * side * side * side * threads_ / seconds;
  }

 private:
  using Matrix = Eigen::MatrixXf;
  static constexpr int side = 1024;
  int threads_ = available_threads();
  std::vector<Matrix> a_, b_, c_;
};

/// `share` is of the ceiling: medians of what the run measured in turn.
template <class T>
void step(benchmark::State& state, TrainerOptions const& options) {
  Training<T> training{options};
  training.step();
  Product product;
  std::vector<double> seconds, rates;
  for (auto _ : state) {
    seconds.push_back(training.timed_step());
    state.SetIterationTime(seconds.back());
    rates.push_back(product.rate());
  }
  double const ceiling = median(rates);
  state.counters["share"] = linear_flops() / median(seconds) / ceiling;
  state.counters["ceiling GFLOP/s"] = ceiling * 1e-9;
  state.counters["best ceiling"] = *std::max_element(rates.begin(), rates.end()) * 1e-9;
  state.counters["tokens/s"] = static_cast<double>(tokens) / median(seconds);
}

/// Steps with and without telemetry in turn, so that what else the machine does meets both; the time is that of a pair. The cost is
/// what the lower quartile of the one has over that of the other.
template <class T>
void telemetry(benchmark::State& state) {
  TrainerOptions off;
  off.telemetry = false;
  Training<T> with{}, without{off};
  with.step(), without.step();
  std::vector<double> observed, plain;
  for (auto _ : state) observed.push_back(with.timed_step()), plain.push_back(without.timed_step());
  state.counters["cost %"] = 100 * (quantile(observed, 0.25) / quantile(plain, 0.25) - 1);
}

/// Seconds in each operation, those in another's left out there.
class Parts : public ProfileListener {
 public:
  Parts() { set_profile_listener(this); }
  ~Parts() override { set_profile_listener(nullptr); }
  void enter(char const* name) override {
    charge();
    open_.push_back(open_.empty() ? std::string{name} : open_.front() + " > " + name);
  }
  void leave(char const*) override {
    charge();
    open_.pop_back();
  }
  void start() { last_ = Clock::now(); }
  void charge() {
    auto const now = Clock::now();
    seconds_[open_.empty() ? "between operations" : open_.back()] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }
  std::map<std::string, double> const& seconds() const { return seconds_; }

 private:
  std::map<std::string, double> seconds_;
  std::vector<std::string> open_;
  Clock::time_point last_{};
};

/// Where a step's time goes: milliseconds of each operation as counters.
template <class T>
void parts(benchmark::State& state) {
  Training<T> training;
  training.step();
  Parts listener;
  for (auto _ : state) {
    listener.start();
    training.step();
    listener.charge();
  }
  for (auto const& [name, seconds] : listener.seconds())
    state.counters[name + " ms"] = 1e3 * seconds / static_cast<double>(state.iterations());
}

auto* add(std::string const& name, auto&& body) {
  return benchmark::RegisterBenchmark(name.c_str(), body)->Unit(benchmark::kMillisecond);
}

template <class T>
void add_all() {
  std::string const scalar = scalar_traits<T>::name;
  TrainerOptions without, inputs;
  without.telemetry = false;
  inputs.keep = Keep::inputs;
  add("step/" + scalar, [](benchmark::State& s) { step<T>(s, {}); })->UseManualTime()->MinTime(3);
  add("step/" + scalar + "/no telemetry", [without](benchmark::State& s) { step<T>(s, without); })->UseManualTime()->MinTime(3);
  add("step/" + scalar + "/keep inputs", [inputs](benchmark::State& s) { step<T>(s, inputs); })->UseManualTime()->MinTime(3);
  add("telemetry/" + scalar, [](benchmark::State& s) { telemetry<T>(s); })->UseRealTime()->Iterations(40);
  add("parts/" + scalar, [](benchmark::State& s) { parts<T>(s); })->UseRealTime()->MinTime(3);
}

}  // namespace

int main(int argc, char** argv) {
  add_all<float>();
  add_all<bf16>();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
