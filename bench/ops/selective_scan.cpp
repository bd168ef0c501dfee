// The selective scan at the shape of a 130M dense model and a prompt of 2048 tokens, on the reference and the fast path, and its
// step for one token. Neither memory nor Eigen's product bounds it: it is bounded by exponentials, one for each state and time,
// whose rate is the counter "exp/s".

#include <blackmamba/core/random.hpp>
#include <blackmamba/core/tensor.hpp>
#include <blackmamba/ops/selective_scan_step/selective_scan_step.hpp>

#include "support/ceilings.hpp"

namespace {

using namespace blackmamba;

template <class T, int Rank>
Tensor<T, Rank> numbers(Shape<Rank> shape, std::uint64_t seed, double centre = 0) {
  Tensor<T, Rank> out{shape};
  Random const random{seed};
  for (Index i = 0; i < out.size(); ++i)
    out.data()[i] = static_cast<T>(static_cast<accumulator_t<T>>(centre + random.normal(static_cast<std::uint64_t>(i))));
  return out;
}

/// A as it is initialised: -1, -2, … -N for every channel.
template <class Acc>
Tensor<Acc, 2> initial_A(Index D, Index N) {
  Tensor<Acc, 2> out{Shape{D, N}};
  for (Index d = 0; d < D; ++d)
    for (Index n = 0; n < N; ++n) out(d, n) = -static_cast<Acc>(n + 1);
  return out;
}

/// Counts an exponential as one operation, beside the five products and sums of each state.
template <class T>
void report(benchmark::State& state, double bytes, Index states_and_times) {
  auto const count = static_cast<double>(states_and_times);
  bench::report<accumulator_t<T>>(state, bytes, 6 * count);
  state.counters["exp/s"] = benchmark::Counter(count, benchmark::Counter::kIsIterationInvariantRate);
}

template <class T, class Ctx>
void scan(benchmark::State& state) {
  using Acc = accumulator_t<T>;
  Index const B = state.range(0), L = state.range(1), D = state.range(2), N = state.range(3);
  auto const u = numbers<T>(Shape{B, L, D}, 1), delta = numbers<T>(Shape{B, L, D}, 2, -4), z = numbers<T>(Shape{B, L, D}, 3);
  auto const A = initial_A<Acc>(D, N);
  auto const b = numbers<T>(Shape{B, L, Index{1}, N}, 5), c = numbers<T>(Shape{B, L, Index{1}, N}, 6);
  auto const skip = numbers<T>(Shape{D}, 7), bias = numbers<T>(Shape{D}, 8);
  Tensor<T, 3> y{Shape{B, L, D}};
  Tensor<Acc, 3> last{Shape{B, D, N}};
  Ctx const ctx;
  for (auto _ : state) {
    selective_scan(ctx, SelectiveScanArgs<T>{.u = u,
                                             .delta = delta,
                                             .A = A,
                                             .B = b,
                                             .C = c,
                                             .D = skip,
                                             .z = z,
                                             .delta_bias = bias,
                                             .delta_softplus = true,
                                             .last_state = last,
                                             .y = y});
    benchmark::DoNotOptimize(y.data());
  }
  double const bytes = static_cast<double>(4 * u.size() + 2 * b.size()) * sizeof(T) + static_cast<double>(2 * D * N) * sizeof(Acc);
  report<T>(state, bytes, B * L * D * N);
  state.SetItemsProcessed(state.iterations() * B * L);
}

template <class T, class Ctx>
void step(benchmark::State& state) {
  using Acc = accumulator_t<T>;
  Index const B = state.range(0), D = state.range(1), N = state.range(2);
  auto const u = numbers<T>(Shape{B, D}, 1), delta = numbers<T>(Shape{B, D}, 2, -4), z = numbers<T>(Shape{B, D}, 3);
  auto const A = initial_A<Acc>(D, N);
  auto const b = numbers<T>(Shape{B, Index{1}, N}, 5), c = numbers<T>(Shape{B, Index{1}, N}, 6);
  auto const skip = numbers<T>(Shape{D}, 7), bias = numbers<T>(Shape{D}, 8);
  Tensor<T, 2> y{Shape{B, D}};
  Tensor<Acc, 3> h{Shape{B, D, N}};
  Ctx const ctx;
  for (auto _ : state) {
    selective_scan_step(ctx, SelectiveScanStepArgs<T>{.u = u,
                                                      .delta = delta,
                                                      .A = A,
                                                      .B = b,
                                                      .C = c,
                                                      .D = skip,
                                                      .z = z,
                                                      .delta_bias = bias,
                                                      .delta_softplus = true,
                                                      .state = h,
                                                      .y = y});
    benchmark::DoNotOptimize(y.data());
  }
  double const bytes =
      static_cast<double>(4 * u.size() + 2 * b.size()) * sizeof(T) + static_cast<double>((2 * B + 1) * D * N) * sizeof(Acc);
  report<T>(state, bytes, B * D * N);
  state.SetItemsProcessed(state.iterations() * B);
}

void whole(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"B", "L", "D", "N"})->Args({1, 2048, 1536, 16})->Unit(benchmark::kMillisecond)->UseRealTime();
}
void token(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"B", "D", "N"})->Unit(benchmark::kMicrosecond)->UseRealTime();
  for (Index B : {1, 8}) bench->Args({B, 1536, 16});
}

BENCHMARK(scan<float, Reference>)->Name("selective_scan/reference/f32")->Apply(whole);
BENCHMARK(scan<float, Cpu>)->Name("selective_scan/cpu/f32")->Apply(whole);
BENCHMARK(scan<bf16, Reference>)->Name("selective_scan/reference/bf16")->Apply(whole);
BENCHMARK(scan<bf16, Cpu>)->Name("selective_scan/cpu/bf16")->Apply(whole);
BENCHMARK(scan<double, Reference>)->Name("selective_scan/reference/f64")->Apply(whole);
BENCHMARK(scan<double, Cpu>)->Name("selective_scan/cpu/f64")->Apply(whole);
BENCHMARK(step<float, Reference>)->Name("selective_scan_step/reference/f32")->Apply(token);
BENCHMARK(step<float, Cpu>)->Name("selective_scan_step/cpu/f32")->Apply(token);
BENCHMARK(step<bf16, Cpu>)->Name("selective_scan_step/cpu/bf16")->Apply(token);

}  // namespace
