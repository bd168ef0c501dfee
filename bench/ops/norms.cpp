// RMSNorm and LayerNorm with the fused residual add: rows of a prompt, which stream from memory.

#include <blackmamba/core/tensor.hpp>
#include <blackmamba/ops/layer_norm/layer_norm.hpp>
#include <blackmamba/ops/rms_norm/rms_norm.hpp>

#include "support/ceilings.hpp"

namespace {

using namespace blackmamba;

/// `Norm` is called with a context, x, the weight, the residual stream and y. Arguments: rows, D.
template <class T, class Norm>
void norm(benchmark::State& state, Norm const& apply) {
  using A = accumulator_t<T>;
  Index const rows = state.range(0), D = state.range(1);
  Tensor<T, 2> x{Shape{rows, D}}, y{Shape{rows, D}};
  Tensor<A, 2> residual{Shape{rows, D}};
  Tensor<T, 1> weight{Shape{D}};
  for (T& value : weight) value = static_cast<T>(A(1));
  for (Index i = 0; i < residual.size(); ++i) residual.data()[i] = static_cast<A>(i % 31);

  Cpu const ctx;
  for (auto _ : state) {
    apply(ctx, x.view(), weight.view(), residual.view(), y.view());
    benchmark::DoNotOptimize(y.data());
  }
  // x is read, the stream read and written, y written.
  double const elements = static_cast<double>(rows * D);
  bench::report<A>(state, elements * (2 * sizeof(T) + 2 * sizeof(A)), 6 * elements);
}

template <class T>
void rms(benchmark::State& state) {
  norm<T>(state, [](Cpu const& ctx, View<T, 2> x, View<T, 1> weight, View<accumulator_t<T>, 2> residual, View<T, 2> y) {
    rms_norm(ctx, RmsNormArgs<T>{.x = x, .weight = weight, .residual = residual, .y = y});
  });
}

template <class T>
void layer(benchmark::State& state) {
  norm<T>(state, [](Cpu const& ctx, View<T, 2> x, View<T, 1> weight, View<accumulator_t<T>, 2> residual, View<T, 2> y) {
    layer_norm(ctx, LayerNormArgs<T>{.x = x, .weight = weight, .bias = weight, .residual = residual, .y = y});
  });
}

void shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"rows", "D"})->Unit(benchmark::kMicrosecond)->UseRealTime()->Args({1, 1152})->Args({32768, 1152});
}

BENCHMARK(rms<float>)->Name("rms_norm/f32")->Apply(shapes);
BENCHMARK(rms<bf16>)->Name("rms_norm/bf16")->Apply(shapes);
BENCHMARK(layer<float>)->Name("layer_norm/f32")->Apply(shapes);
BENCHMARK(layer<bf16>)->Name("layer_norm/bf16")->Apply(shapes);

}  // namespace

BENCHMARK_MAIN();
