// The gradient of the selective scan beside the scan itself, at the shape of a 130M dense model and a sequence of 2048 tokens, and
// at a small batch as one trains on a desk. "exp/s" counts one exponential for each state and time, as the forward pass does; the
// way back computes most of them twice, and moves three numbers for each through the caches.

#include <blackmamba/core/random.hpp>
#include <blackmamba/core/tensor.hpp>
#include <blackmamba/ops/selective_scan/backward.hpp>

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

/// The inputs of both passes; A as it is initialised: -1, -2, … -N for every channel.
template <class T>
struct Problem {
  using Acc = accumulator_t<T>;
  Index B, L, D, N;
  Tensor<T, 3> u = numbers<T>(Shape{B, L, D}, 1), delta = numbers<T>(Shape{B, L, D}, 2, -4), z = numbers<T>(Shape{B, L, D}, 3);
  Tensor<T, 4> b = numbers<T>(Shape{B, L, Index{1}, N}, 5), c = numbers<T>(Shape{B, L, Index{1}, N}, 6);
  Tensor<T, 1> skip = numbers<T>(Shape{D}, 7), bias = numbers<T>(Shape{D}, 8);
  Tensor<Acc, 2> A{Shape{D, N}};

  explicit Problem(benchmark::State const& state) : B{state.range(0)}, L{state.range(1)}, D{state.range(2)}, N{state.range(3)} {
    for (Index d = 0; d < D; ++d)
      for (Index n = 0; n < N; ++n) A(d, n) = -static_cast<Acc>(n + 1);
  }

  void report(benchmark::State& state, Index rows_moved, double operations) const {
    auto const count = static_cast<double>(B * L * D * N);
    bench::report<Acc>(state, static_cast<double>(rows_moved * u.size() + 2 * b.size()) * sizeof(T), operations * count);
    state.counters["exp/s"] = benchmark::Counter(count, benchmark::Counter::kIsIterationInvariantRate);
    state.SetItemsProcessed(state.iterations() * B * L);
  }
};

template <class T>
void forward(benchmark::State& state) {
  Problem<T> const p{state};
  Tensor<T, 3> y{p.u.shape()};
  Cpu const ctx;
  for (auto _ : state) {
    selective_scan(ctx, SelectiveScanArgs<T>{.u = p.u,
                                             .delta = p.delta,
                                             .A = p.A,
                                             .B = p.b,
                                             .C = p.c,
                                             .D = p.skip,
                                             .z = p.z,
                                             .delta_bias = p.bias,
                                             .delta_softplus = true,
                                             .y = y});
    benchmark::DoNotOptimize(y.data());
  }
  p.report(state, 4, 6);
}

template <class T, class Ctx>
void backward(benchmark::State& state) {
  using Acc = accumulator_t<T>;
  Problem<T> const p{state};
  auto const d_y = numbers<T>(p.u.shape(), 9);
  Tensor<T, 3> d_u{p.u.shape()}, d_delta{p.u.shape()}, d_z{p.u.shape()};
  Tensor<T, 4> d_b{p.b.shape()}, d_c{p.c.shape()};
  Tensor<Acc, 2> d_A{p.A.shape()};
  Tensor<Acc, 1> d_skip{p.skip.shape()}, d_bias{p.bias.shape()};
  Ctx const ctx;
  for (auto _ : state) {
    selective_scan_backward(ctx, SelectiveScanBackwardArgs<T>{.u = p.u,
                                                              .delta = p.delta,
                                                              .A = p.A,
                                                              .B = p.b,
                                                              .C = p.c,
                                                              .D = p.skip,
                                                              .z = p.z,
                                                              .delta_bias = p.bias,
                                                              .delta_softplus = true,
                                                              .d_y = d_y,
                                                              .d_u = d_u,
                                                              .d_delta = d_delta,
                                                              .d_A = d_A,
                                                              .d_B = d_b,
                                                              .d_C = d_c,
                                                              .d_D = d_skip,
                                                              .d_z = d_z,
                                                              .d_delta_bias = d_bias});
    benchmark::DoNotOptimize(d_u.data());
  }
  state.counters["scratch MB"] = static_cast<double>(ctx.scratch().peak()) * 1e-6;
  // u, delta, z and d_y in, three rows out; the scan again, and some fifteen products and sums of each state on the way back.
  p.report(state, 7, 21);
}

void shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"B", "L", "D", "N"})->Unit(benchmark::kMillisecond)->UseRealTime();
  bench->Args({1, 2048, 1536, 16})->Args({8, 256, 256, 16});
}

BENCHMARK(forward<float>)->Name("selective_scan/cpu/f32")->Apply(shapes);
BENCHMARK(backward<float, Reference>)->Name("selective_scan_backward/reference/f32")->Apply(shapes);
BENCHMARK(backward<float, Cpu>)->Name("selective_scan_backward/cpu/f32")->Apply(shapes);
BENCHMARK(backward<bf16, Cpu>)->Name("selective_scan_backward/cpu/bf16")->Apply(shapes);
BENCHMARK(backward<double, Cpu>)->Name("selective_scan_backward/cpu/f64")->Apply(shapes);

}  // namespace
