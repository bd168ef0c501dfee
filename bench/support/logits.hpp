#pragma once
// What the benchmarks of routers and of their operations share: sizes, logits, and rates by the size of the logits.

#include <blackmamba/core/random.hpp>
#include <blackmamba/core/tensor.hpp>

#include "support/ceilings.hpp"

namespace bench {

/// Logits of a router that tells tokens apart: normal, of deviation 1.
inline blackmamba::Tensor<float, 2> router_logits(Index tokens, Index experts, std::uint64_t seed) {
  blackmamba::Tensor<float, 2> out{blackmamba::Shape{tokens, experts}};
  blackmamba::Random const random{seed};
  for (Index i = 0; i < out.size(); ++i) out.data()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  return out;
}

/// Adds "tokens/s", "GB/s" of the logits, each read once, and "of read": the share of the bandwidth of reading that this run
/// measured on all threads. The benchmark must have `UseRealTime()`.
inline void report_logits(benchmark::State& state, Index tokens, Index experts) {
  using benchmark::Counter;
  auto const rate = Counter::kIsIterationInvariantRate;
  double const bytes = static_cast<double>(tokens * experts) * sizeof(float);
  state.counters["tokens/s"] = Counter(static_cast<double>(tokens), rate);
  state.counters["GB/s"] = Counter(bytes * 1e-9, rate);
  state.counters["of read"] = Counter(bytes / ceilings().read_bytes_per_second, rate);
}

}  // namespace bench
