// The experts of the 340M/1.5B shape: 8 of width 1152, hidden 3072, gated.

#include <blackmamba/core/tensor.hpp>
#include <blackmamba/ops/expert_mlp/expert_mlp.hpp>

#include "support/ceilings.hpp"

using namespace blackmamba;

namespace {

constexpr Index experts = 8, D = 1152, F = 3072;

/// Numbers of both signs, small enough for sums of thousands of products in any scalar.
template <class T>
void fill(Tensor<T, 3>& tensor) {
  std::uint32_t bits = 1;
  for (T& x : tensor) {
    bits = bits * 1664525u + 1013904223u;
    x = static_cast<T>(static_cast<accumulator_t<T>>(static_cast<double>(bits >> 8) * 0x1p-28 - 0x1p-5));
  }
}

/// `range(0)` rows over all experts evenly; fewer rows than experts go to one expert, another one each time.
template <class T, class Ctx>
void experts_of_1152(benchmark::State& state) {
  Index const rows = state.range(0);
  bool const spread = rows >= experts;
  Tensor<T, 3> x{Shape{Index{1}, rows, D}}, fc1{Shape{experts, 2 * F, D}}, fc2{Shape{experts, D, F}};
  fill(x), fill(fc1), fill(fc2);
  Tensor<T, 2> y{Shape{rows, D}};
  Tensor<Index, 1> offsets{Shape{experts + 1}};
  Ctx const ctx;
  Index turn = 0;
  for (auto _ : state) {
    for (Index e = 0; e <= experts; ++e) offsets(e) = spread ? e * rows / experts : e > turn % experts ? rows : 0;
    expert_mlp(ctx, ExpertMlpArgs<T>{.x = x.view()[0],
                                     .offsets = offsets,
                                     .fc1 = fc1,
                                     .fc2 = fc2,
                                     .activation = Activation::gelu_erf,
                                     .gated = true,
                                     .y = y});
    benchmark::ClobberMemory();
    ++turn;
  }
  double const weights_of_one = 3.0 * static_cast<double>(D * F);
  bench::report<accumulator_t<T>>(state, weights_of_one * (spread ? experts : 1) * sizeof(T),
                                  2 * weights_of_one * static_cast<double>(rows));
}

BENCHMARK(experts_of_1152<float, Reference>)->Arg(1)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(experts_of_1152<float, Cpu>)->Arg(1)->Arg(64)->Arg(1024)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(experts_of_1152<bf16, Cpu>)->Arg(1)->Arg(64)->Arg(1024)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
