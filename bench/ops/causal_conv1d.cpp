// The causal convolution at the shape of a 130M dense model and a prompt of 2048 tokens, and its step for one token.

#include <blackmamba/core/random.hpp>
#include <blackmamba/core/tensor.hpp>
#include <blackmamba/ops/causal_conv1d_step/causal_conv1d_step.hpp>

#include "support/ceilings.hpp"

namespace {

using namespace blackmamba;

template <class T, int Rank>
Tensor<T, Rank> numbers(Shape<Rank> shape, std::uint64_t seed) {
  Tensor<T, Rank> out{shape};
  Random const random{seed};
  for (Index i = 0; i < out.size(); ++i)
    out.data()[i] = static_cast<T>(static_cast<accumulator_t<T>>(random.normal(static_cast<std::uint64_t>(i))));
  return out;
}

template <class T, class Ctx>
void conv(benchmark::State& state) {
  Index const B = state.range(0), L = state.range(1), D = state.range(2), K = state.range(3);
  auto const x = numbers<T>(Shape{B, L, D}, 1);
  auto const weight = numbers<T>(Shape{D, K}, 2);
  auto const bias = numbers<T>(Shape{D}, 3);
  Tensor<T, 3> y{Shape{B, L, D}}, last{Shape{B, K - 1, D}};
  Ctx const ctx;
  for (auto _ : state) {
    causal_conv1d(ctx, CausalConv1dArgs<T>{.x = x, .weight = weight, .bias = bias, .last_state = last, .y = y});
    benchmark::DoNotOptimize(y.data());
  }
  // Products and sums, and SiLU as four operations.
  bench::report<accumulator_t<T>>(state, static_cast<double>(2 * x.size()) * sizeof(T),
                                  static_cast<double>(x.size() * (2 * K + 4)));
  state.SetItemsProcessed(state.iterations() * B * L);
}

template <class T, class Ctx>
void step(benchmark::State& state) {
  Index const B = state.range(0), D = state.range(1), K = state.range(2);
  auto const x = numbers<T>(Shape{B, D}, 1);
  auto const weight = numbers<T>(Shape{D, K}, 2);
  auto const bias = numbers<T>(Shape{D}, 3);
  Tensor<T, 2> y{Shape{B, D}};
  Tensor<T, 3> memory{Shape{B, K - 1, D}};
  Ctx const ctx;
  for (auto _ : state) {
    causal_conv1d_step(ctx, CausalConv1dStepArgs<T>{.x = x, .weight = weight, .bias = bias, .state = memory, .y = y});
    benchmark::DoNotOptimize(y.data());
  }
  double const bytes = static_cast<double>(2 * x.size() + weight.size() + D + 2 * memory.size()) * sizeof(T);
  bench::report<accumulator_t<T>>(state, bytes, static_cast<double>(x.size() * (2 * K + 4)));
  state.SetItemsProcessed(state.iterations() * B);
}

void whole(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"B", "L", "D", "K"})->Args({1, 2048, 1536, 4})->Unit(benchmark::kMillisecond)->UseRealTime();
}
void token(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"B", "D", "K"})->Unit(benchmark::kMicrosecond)->UseRealTime();
  for (Index B : {1, 8}) bench->Args({B, 1536, 4});
}

BENCHMARK(conv<float, Reference>)->Name("causal_conv1d/reference/f32")->Apply(whole);
BENCHMARK(conv<float, Cpu>)->Name("causal_conv1d/cpu/f32")->Apply(whole);
BENCHMARK(conv<bf16, Cpu>)->Name("causal_conv1d/cpu/bf16")->Apply(whole);
BENCHMARK(step<float, Reference>)->Name("causal_conv1d_step/reference/f32")->Apply(token);
BENCHMARK(step<float, Cpu>)->Name("causal_conv1d_step/cpu/f32")->Apply(token);
BENCHMARK(step<bf16, Cpu>)->Name("causal_conv1d_step/cpu/bf16")->Apply(token);

}  // namespace
