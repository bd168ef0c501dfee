// The linear map at the shapes of the published 340M/1.5B model: one token at a time, a few, and a prompt. Weights are far larger
// than the caches in a real model, so decoding walks through copies of the weight that together are larger than any cache.

#include <vector>

#include <blackmamba/core/tensor.hpp>
#include <blackmamba/ops/linear/linear.hpp>

#include "support/ceilings.hpp"

namespace {

using namespace blackmamba;

/// Small exact values, cheap to make: arithmetic takes the same time on all finite ones.
template <class T>
void fill(Tensor<T, 2>& tensor) {
  for (Index i = 0; i < tensor.size(); ++i)
    tensor.data()[i] = static_cast<T>(static_cast<accumulator_t<T>>(i * 7919 % 509 - 254) / accumulator_t<T>(256));
}

/// Arguments: rows of x, inputs, outputs.
template <class T>
void linear_shape(benchmark::State& state) {
  Index const M = state.range(0), K = state.range(1), N = state.range(2);
  double const weight_bytes = static_cast<double>(N * K) * sizeof(T);
  constexpr double larger_than_caches = 512e6;
  std::vector<Tensor<T, 2>> weights;
  do {
    weights.emplace_back(Shape{N, K});
    fill(weights.back());
  } while (static_cast<double>(weights.size()) * weight_bytes < larger_than_caches);
  Tensor<T, 2> x{Shape{M, K}}, y{Shape{M, N}};
  fill(x);

  Cpu const ctx;
  std::size_t next = 0;
  for (auto _ : state) {
    linear(ctx, LinearArgs<T>{.x = x, .weight = weights[next], .y = y});
    next = (next + 1) % weights.size();
    benchmark::DoNotOptimize(y.data());
  }
  double const others = static_cast<double>(M * K + M * N) * sizeof(T);
  bench::report<accumulator_t<T>>(state, weight_bytes + others, 2.0 * static_cast<double>(M * N * K));
}

void decode(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"M", "K", "N"})->Unit(benchmark::kMicrosecond)->UseRealTime();
  for (Index M : {1, 2, 4, 8}) bench->Args({M, 1152, 6144});
  bench->Args({1, 1152, 50304})->Args({1, 3072, 1152})->Args({1, 2304, 104})->Args({1, 72, 2304});
}

void prefill(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"M", "K", "N"})->Unit(benchmark::kMillisecond)->UseRealTime();
  for (Index M : {16, 17, 64, 2048}) bench->Args({M, 1152, 6144});
  bench->Args({2048, 3072, 1152})->Args({2048, 72, 2304});
}

BENCHMARK(linear_shape<float>)->Name("linear/decode/f32")->Apply(decode);
BENCHMARK(linear_shape<bf16>)->Name("linear/decode/bf16")->Apply(decode);
BENCHMARK(linear_shape<half>)->Name("linear/decode/f16")->Apply(decode);
BENCHMARK(linear_shape<float>)->Name("linear/prefill/f32")->Apply(prefill);
BENCHMARK(linear_shape<bf16>)->Name("linear/prefill/bf16")->Apply(prefill);
BENCHMARK(linear_shape<half>)->Name("linear/prefill/f16")->Apply(prefill);
BENCHMARK(linear_shape<double>)->Name("linear/prefill/f64")->Apply(prefill);

}  // namespace

BENCHMARK_MAIN();
