// The backward pass of the linear map at the shapes of training: thousands of rows, weights of a small model, where the sum over
// rows is most of the work, and of a large one.

#include <blackmamba/core/tensor.hpp>
#include <blackmamba/ops/linear/backward.hpp>

#include "support/ceilings.hpp"

namespace {

using namespace blackmamba;

enum class Which { input, parameters, all };

/// Arguments: rows of x, inputs, outputs.
template <class T, Which which>
void linear_backward_shape(benchmark::State& state) {
  using A = accumulator_t<T>;
  Index const M = state.range(0), K = state.range(1), N = state.range(2);
  constexpr bool input = which != Which::parameters, parameters = which != Which::input;
  Tensor<T, 2> x{Shape{M, K}}, weight{Shape{N, K}}, d_y{Shape{M, N}}, d_x{Shape{M, K}};
  Tensor<A, 2> d_weight{Shape{N, K}};
  Tensor<A, 1> d_bias{Shape{N}};
  // Small exact values, cheap to make: arithmetic takes the same time on all finite ones.
  for (auto* tensor : {&x, &weight, &d_y})
    for (Index i = 0; i < tensor->size(); ++i) tensor->data()[i] = static_cast<T>(static_cast<A>(i * 7919 % 509 - 254) / A(256));

  Cpu const ctx;
  LinearBackwardArgs<T> args{.x = x, .weight = weight, .d_y = d_y};
  if (input) args.d_x = d_x;
  if (parameters) args.d_weight = d_weight, args.d_bias = d_bias;
  for (auto _ : state) {
    linear_backward(ctx, args);
    benchmark::DoNotOptimize(d_x.data());
    benchmark::DoNotOptimize(d_weight.data());
  }
  // Each gradient reads two matrices and writes one; that of the weight is read as well.
  double const of_x = static_cast<double>(M * N + N * K + M * K) * sizeof(T);
  double const of_weight = static_cast<double>(M * N + M * K) * sizeof(T) + 2.0 * static_cast<double>(N * K) * sizeof(A);
  double const products = 2.0 * static_cast<double>(M * N * K);
  bench::report<A>(state, input * of_x + parameters * of_weight, (input + parameters) * products);
}

void shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"M", "K", "N"})->Unit(benchmark::kMillisecond)->UseRealTime();
  bench->Args({2048, 128, 128})->Args({2048, 256, 1024})->Args({8192, 64, 256})->Args({2048, 1152, 6144})->Args({2048, 72, 2304});
}

BENCHMARK(linear_backward_shape<float, Which::input>)->Name("linear_backward/input/f32")->Apply(shapes);
BENCHMARK(linear_backward_shape<float, Which::parameters>)->Name("linear_backward/parameters/f32")->Apply(shapes);
BENCHMARK(linear_backward_shape<float, Which::all>)->Name("linear_backward/all/f32")->Apply(shapes);
BENCHMARK(linear_backward_shape<bf16, Which::all>)->Name("linear_backward/all/bf16")->Apply(shapes);
BENCHMARK(linear_backward_shape<double, Which::all>)->Name("linear_backward/all/f64")->Apply(shapes);

}  // namespace

BENCHMARK_MAIN();
