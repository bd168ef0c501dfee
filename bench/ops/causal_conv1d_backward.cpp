// The gradient of the causal convolution beside the convolution itself, at the shape of a 130M dense model and a sequence of 2048
// tokens, and at a small batch as one trains on a desk.

#include <blackmamba/core/random.hpp>
#include <blackmamba/core/tensor.hpp>
#include <blackmamba/ops/causal_conv1d/backward.hpp>

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

template <class T>
struct Problem {
  Index B, L, D, K;
  Tensor<T, 3> x = numbers<T>(Shape{B, L, D}, 1);
  Tensor<T, 2> weight = numbers<T>(Shape{D, K}, 2);
  Tensor<T, 1> bias = numbers<T>(Shape{D}, 3);

  explicit Problem(benchmark::State const& state) : B{state.range(0)}, L{state.range(1)}, D{state.range(2)}, K{state.range(3)} {}

  /// Products and sums, and SiLU or its derivative as `activation` operations.
  void report(benchmark::State& state, Index rows_moved, Index sums, Index activation) const {
    bench::report<accumulator_t<T>>(state, static_cast<double>(rows_moved * x.size()) * sizeof(T),
                                    static_cast<double>(x.size() * (2 * K * sums + activation)));
    state.SetItemsProcessed(state.iterations() * B * L);
  }
};

template <class T>
void forward(benchmark::State& state) {
  Problem<T> const p{state};
  Tensor<T, 3> y{p.x.shape()};
  Cpu const ctx;
  for (auto _ : state) {
    causal_conv1d(ctx, CausalConv1dArgs<T>{.x = p.x, .weight = p.weight, .bias = p.bias, .y = y});
    benchmark::DoNotOptimize(y.data());
  }
  p.report(state, 2, 1, 4);
}

template <class T, class Ctx>
void backward(benchmark::State& state) {
  using Acc = accumulator_t<T>;
  Problem<T> const p{state};
  auto const d_y = numbers<T>(p.x.shape(), 4);
  Tensor<T, 3> d_x{p.x.shape()};
  Tensor<Acc, 2> d_weight{p.weight.shape()};
  Tensor<Acc, 1> d_bias{p.bias.shape()};
  Ctx const ctx;
  for (auto _ : state) {
    causal_conv1d_backward(
        ctx, CausalConv1dBackwardArgs<T>{
                 .x = p.x, .weight = p.weight, .bias = p.bias, .d_y = d_y, .d_x = d_x, .d_weight = d_weight, .d_bias = d_bias});
    benchmark::DoNotOptimize(d_x.data());
  }
  p.report(state, 3, 3, 9);
}

void shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"B", "L", "D", "K"})->Unit(benchmark::kMillisecond)->UseRealTime();
  bench->Args({1, 2048, 1536, 4})->Args({8, 256, 256, 4});
}

BENCHMARK(forward<float>)->Name("causal_conv1d/cpu/f32")->Apply(shapes);
BENCHMARK(backward<float, Reference>)->Name("causal_conv1d_backward/reference/f32")->Apply(shapes);
BENCHMARK(backward<float, Cpu>)->Name("causal_conv1d_backward/cpu/f32")->Apply(shapes);
BENCHMARK(backward<bf16, Cpu>)->Name("causal_conv1d_backward/cpu/bf16")->Apply(shapes);

}  // namespace
