// The parts of routing that take time, in f32: at 16384 tokens of 8 experts, one of them a token, and at 4096 of 64 with four.

#include <blackmamba/ops/route/losses.hpp>
#include <blackmamba/ops/route/threshold.hpp>

#include "support/logits.hpp"

namespace {

using namespace blackmamba;

/// Logits, scores and a choice by them. Arguments of a benchmark: tokens, E, k, threads.
struct Problem {
  Index tokens, E, k;
  Cpu ctx;
  Tensor<float, 2> logits = bench::router_logits(tokens, E, 1), scores{logits.shape()}, d_logits{logits.shape()};
  Tensor<int, 2> experts{Shape{tokens, k}};
  Tensor<float, 2> weights{experts.shape()};
  Tensor<float, 1> thresholds{Shape{E}};

  explicit Problem(benchmark::State const& state)
      : tokens{state.range(0)}, E{state.range(1)}, k{state.range(2)}, ctx{static_cast<int>(state.range(3))} {
    route_scores(ctx, RouteScoresArgs<float>{.logits = logits, .scores = scores});
    choose();
  }
  void choose() { route_choose(ctx, RouteChooseArgs<float>{.scores = scores, .experts = experts}); }

  template <class Body>
  void measure(benchmark::State& state, Body const& body) {
    for (auto _ : state) {
      body();
      benchmark::ClobberMemory();
    }
    bench::report_logits(state, tokens, E);
  }
};

void gate(benchmark::State& state) {
  Problem p{state};
  p.measure(state, [&] {
    route_gate(p.ctx, RouteGateArgs<float>{.logits = p.logits, .experts = p.experts, .gate = Gate::softmax, .weights = p.weights});
  });
}

void choose(benchmark::State& state) {
  Problem p{state};
  p.measure(state, [&] { p.choose(); });
}

/// From zero, so that thresholds move.
void thresholds(benchmark::State& state) {
  Problem p{state};
  p.measure(state, [&] {
    for (float& t : p.thresholds) t = 0;
    balance_thresholds(p.ctx, BalanceThresholdsArgs<float>{.scores = p.scores, .k = p.k, .thresholds = p.thresholds});
  });
}

void balance(benchmark::State& state) {
  Problem p{state};
  p.measure(state, [&] {
    benchmark::DoNotOptimize(
        balance_loss(p.ctx, BalanceLossArgs<float>{.logits = p.logits, .experts = p.experts, .d_logits = p.d_logits}));
  });
}

void z_loss(benchmark::State& state) {
  Problem p{state};
  p.measure(state, [&] {
    benchmark::DoNotOptimize(router_z_loss(p.ctx, RouterZLossArgs<float>{.logits = p.logits, .d_logits = p.d_logits}));
  });
}

void sizes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"tokens", "E", "k", "threads"})->Unit(benchmark::kMillisecond)->UseRealTime();
  std::int64_t const all = available_threads();
  for (std::int64_t threads = 1; threads <= all; threads += std::max<std::int64_t>(all - 1, 1))
    bench->Args({16384, 8, 1, threads})->Args({4096, 64, 4, threads});
}

BENCHMARK(gate)->Name("route_gate")->Apply(sizes);
BENCHMARK(choose)->Name("route_choose")->Apply(sizes);
BENCHMARK(thresholds)->Name("balance_thresholds")->Apply(sizes);
BENCHMARK(balance)->Name("balance_loss")->Apply(sizes);
BENCHMARK(z_loss)->Name("router_z_loss")->Apply(sizes);

}  // namespace

BENCHMARK_MAIN();
