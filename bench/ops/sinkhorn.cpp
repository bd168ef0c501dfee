// Sinkhorn's iteration at the size of a training step: 16384 tokens, 8 experts.

#include <blackmamba/core/random.hpp>
#include <blackmamba/core/tensor.hpp>
#include <blackmamba/ops/sinkhorn/sinkhorn.hpp>

#include "support/ceilings.hpp"

using namespace blackmamba;

namespace {

constexpr Index tokens = 16384, experts = 8;

template <class T>
struct Data {
  Tensor<T, 2> logits{Shape{tokens, experts}};
  Tensor<accumulator_t<T>, 2> plan{Shape{tokens, experts}};
  Tensor<accumulator_t<T>, 1> potentials{Shape{experts}};

  explicit Data(double spread) {
    Random const random{1};
    for (Index i = 0; i < logits.size(); ++i)
      logits.data()[i] = static_cast<T>(static_cast<accumulator_t<T>>(spread * random.normal(static_cast<std::uint64_t>(i))));
  }
};

/// Logits in, plan out; a multiply and an add for each entry in each of the two sums of an iteration.
template <class T>
void report(benchmark::State& state, SinkhornReport const& last) {
  using A = accumulator_t<T>;
  double const entries = static_cast<double>(tokens * experts);
  bench::report<A>(state, entries * (sizeof(T) + sizeof(A)), 4 * entries * static_cast<double>(last.iterations));
  state.counters["iterations"] = static_cast<double>(last.iterations);
  state.counters["marginal_error"] = last.marginal_error;
}

template <class T, class Ctx>
void published(benchmark::State& state) {
  Data<T> data{1};
  Ctx const ctx;
  SinkhornReport last;
  for (auto _ : state) {
    last = sinkhorn(ctx, SinkhornArgs<T>{.logits = data.logits, .plan = data.plan});
    benchmark::ClobberMemory();
  }
  report<T>(state, last);
}

/// From zero potentials to a marginal error of 1 in 1000.
template <class T, class Ctx>
void logarithmic(benchmark::State& state) {
  Data<T> data{1};
  Ctx const ctx;
  SinkhornReport last;
  for (auto _ : state) {
    last = sinkhorn_log(ctx, SinkhornLogArgs<T>{.logits = data.logits, .plan = data.plan, .tolerance = 1e-3});
    benchmark::ClobberMemory();
  }
  report<T>(state, last);
}

/// From the potentials of the batch before, which here is the same one: the least that a step can cost.
template <class T, class Ctx>
void warm(benchmark::State& state) {
  Data<T> data{1};
  Ctx const ctx;
  SinkhornLogArgs<T> const args{.logits = data.logits, .plan = data.plan, .tolerance = 1e-3, .potentials = data.potentials};
  SinkhornReport last = sinkhorn_log(ctx, args);
  for (auto _ : state) {
    last = sinkhorn_log(ctx, args);
    benchmark::ClobberMemory();
  }
  report<T>(state, last);
}

BENCHMARK(published<float, Reference>)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(published<float, Cpu>)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(logarithmic<float, Reference>)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(logarithmic<float, Cpu>)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(logarithmic<bf16, Cpu>)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(logarithmic<double, Cpu>)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(warm<float, Cpu>)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
