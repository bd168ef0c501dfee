// Activations and gated units over a matrix larger than the caches: each reads its inputs and writes its output once, so the
// ceiling is that of memory. In float, those with an exponential may be held back by arithmetic instead; in bf16 more so.

#include <benchmark/benchmark.h>

#include <blackmamba/core/tensor.hpp>
#include <blackmamba/ops/activation/activation.hpp>

#include "support/ceilings.hpp"

using namespace blackmamba;

namespace {

constexpr Index rows = 8192, D = 3072;

template <class T>
Tensor<T, 2> ramp(double from, double to) {
  Tensor<T, 2> out{Shape{rows, D}};
  for (Index i = 0; i < out.size(); ++i) out.data()[i] = static_cast<T>(from + (to - from) * static_cast<double>(i % 1021) / 1021);
  return out;
}

Activation kind_of(benchmark::State const& state) { return static_cast<Activation>(state.range(0)); }

template <class T>
void activation_cpu(benchmark::State& state) {
  auto const x = ramp<T>(-6, 6);
  Tensor<T, 2> y{Shape{rows, D}};
  Cpu const ctx;
  for (auto _ : state) {
    activation(ctx, ActivationArgs<T>{.kind = kind_of(state), .x = x, .y = y});
    benchmark::ClobberMemory();
  }
  bench::report(state, 2.0 * sizeof(T) * rows * D, 0);
}

template <class T>
void gated_unit_cpu(benchmark::State& state) {
  auto const gate = ramp<T>(-6, 6), value = ramp<T>(-1, 1);
  Tensor<T, 2> y{Shape{rows, D}};
  Cpu const ctx;
  for (auto _ : state) {
    gated_unit(ctx, GatedUnitArgs<T>{.kind = kind_of(state), .gate = gate, .value = value, .y = y});
    benchmark::ClobberMemory();
  }
  bench::report(state, 3.0 * sizeof(T) * rows * D, 0);
}

/// Named after the kind, which the argument only numbers.
[[maybe_unused]] bool const registered = [] {
  for (Activation kind : {Activation::relu_squared, Activation::silu, Activation::gelu_erf, Activation::gelu_tanh}) {
    auto const add = [&](char const* op, char const* scalar, void (*body)(benchmark::State&)) {
      benchmark::RegisterBenchmark(concat(op, "/", to_string(kind), "/", scalar).c_str(), body)
          ->Arg(static_cast<int>(kind))
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
    };
    add("activation", "f32", activation_cpu<float>);
    add("activation", "bf16", activation_cpu<bf16>);
    add("gated_unit", "f32", gated_unit_cpu<float>);
    add("gated_unit", "bf16", gated_unit_cpu<bf16>);
  }
  return true;
}();

}  // namespace
