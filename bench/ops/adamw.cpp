// The optimiser's step and the norm of the gradient: both stream the whole model from memory, every step.

#include <blackmamba/core/tensor.hpp>
#include <blackmamba/ops/adamw/adamw.hpp>
#include <blackmamba/ops/sum_squares/sum_squares.hpp>

#include "support/ceilings.hpp"

namespace {

using namespace blackmamba;

/// Argument: parameters.
template <class T>
void step(benchmark::State& state) {
  using A = accumulator_t<T>;
  Shape<1> const shape{state.range(0)};
  Tensor<A, 1> master{shape}, gradient{shape}, first{shape}, second{shape};
  constexpr bool narrow = !std::is_same_v<T, A>;
  Tensor<T, 1> weights{narrow ? shape : Shape<1>{0}};
  for (Index i = 0; i < shape[0]; ++i) gradient(i) = static_cast<A>(i % 31 - 15);
  AdamWSegment const segments[]{{0, shape[0] / 2, true}, {shape[0] / 2, shape[0] - shape[0] / 2, false}};
  AdamWArgs<T> args{.master = master,
                    .gradient = gradient,
                    .first = first,
                    .second = second,
                    .weights = narrow ? weights.view() : View<T, 1>{},
                    .segments = {segments, Shape<1>{2}},
                    .step = 0,
                    .learning_rate = 1e-3,
                    .weight_decay = 0.1};
  Cpu const ctx;
  for (auto _ : state) {
    ++args.step;
    adamw(ctx, args);
    benchmark::DoNotOptimize(master.data());
  }
  // Four arrays are read, three of them written again, and narrow weights written.
  auto const elements = static_cast<double>(shape[0]);
  bench::report<A>(state, elements * (7 * sizeof(A) + (narrow ? sizeof(T) : 0)), 15 * elements);
}

template <class T>
void squares(benchmark::State& state) {
  Tensor<T, 1> x{Shape<1>{state.range(0)}};
  for (Index i = 0; i < x.size(); ++i) x(i) = static_cast<T>(i % 31);
  Cpu const ctx;
  for (auto _ : state) {
    double sum = sum_squares(ctx, SumSquaresArgs<T>{.x = x});
    benchmark::DoNotOptimize(sum);
  }
  auto const elements = static_cast<double>(x.size());
  bench::report<double>(state, elements * sizeof(T), 2 * elements);
}

void sizes(benchmark::internal::Benchmark* bench) {
  bench->ArgName("n")->Unit(benchmark::kMicrosecond)->UseRealTime()->Arg(1 << 16)->Arg(1 << 25);
}

BENCHMARK(step<float>)->Name("adamw/f32")->Apply(sizes);
BENCHMARK(step<bf16>)->Name("adamw/bf16")->Apply(sizes);
BENCHMARK(step<double>)->Name("adamw/f64")->Apply(sizes);
BENCHMARK(squares<float>)->Name("sum_squares/f32")->Apply(sizes);
BENCHMARK(squares<double>)->Name("sum_squares/f64")->Apply(sizes);

}  // namespace

BENCHMARK_MAIN();
