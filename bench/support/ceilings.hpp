#pragma once
// What this machine can do, measured in the process that reports a share of it: bytes per second of memory and operations per
// second of Eigen's product, with all the threads that `Cpu` uses.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <type_traits>
#include <vector>

#include <benchmark/benchmark.h>

#include <blackmamba/core/arena.hpp>
#include <blackmamba/core/eigen.hpp>
#include <blackmamba/core/parallel.hpp>
#include <blackmamba/core/simd.hpp>

namespace bench {

using blackmamba::Index;

/// Best of several passes each. Traffic counts what the program names: a read-for-ownership of a written line is not counted.
struct Ceilings {
  int threads = 1;
  double read_bytes_per_second = 0;   ///< s += a[i]
  double copy_bytes_per_second = 0;   ///< a[i] = b[i]
  double triad_bytes_per_second = 0;  ///< a[i] = b[i] + s c[i]
  /// The larger of copy and triad: what every memory-bound kernel is compared with, whatever mix of reads and writes it has.
  /// A product with few rows only reads, which most machines do faster than they copy, so its share may pass 1: where it does,
  /// `read_bytes_per_second` is the harder comparison.
  double bytes_per_second = 0;
  double flops_per_second_f32 = 0;  ///< Eigen's square product, one a thread
  double flops_per_second_f64 = 0;
};

namespace detail {

/// Shortest time of `repeats` calls, in seconds.
template <class Body>
double best_seconds(int repeats, Body&& body) {
  double best = 1e300;
  for (int i = 0; i < repeats; ++i) {
    auto const begin = std::chrono::steady_clock::now();
    body();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

inline void measure_memory(Ceilings& out) {
  using namespace blackmamba;
  using simd::pack;
  constexpr Index count = Index{1} << 26;  // floats: 256 MiB an array, far past any last-level cache
  constexpr Index grain = Index{1} << 18;
  constexpr Index W = simd::width<float>;
  Arena arena{3 * static_cast<std::size_t>(count) * sizeof(float)};
  float* const a = arena.take<float>(Shape{count}).data();
  float* const b = arena.take<float>(Shape{count}).data();
  float* const c = arena.take<float>(Shape{count}).data();
  auto const pass = [&](auto&& body) { parallel_ranges(out.threads, count, grain, body); };
  pass([&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) a[i] = 0, b[i] = 1, c[i] = 2;
  });

  constexpr int repeats = 7;
  double const bytes = static_cast<double>(count) * sizeof(float);
  out.read_bytes_per_second = bytes / best_seconds(repeats, [&] {
                                pass([&](Index begin, Index end) {
                                  pack<float> s0{}, s1{}, s2{}, s3{};
                                  for (Index i = begin; i < end; i += 4 * W) {
                                    s0 += simd::load(b + i), s1 += simd::load(b + i + W);
                                    s2 += simd::load(b + i + 2 * W), s3 += simd::load(b + i + 3 * W);
                                  }
                                  float sum = simd::sum((s0 + s1) + (s2 + s3));
                                  benchmark::DoNotOptimize(sum);
                                });
                              });
  out.copy_bytes_per_second = 2 * bytes / best_seconds(repeats, [&] {
                                pass([&](Index begin, Index end) {
                                  for (Index i = begin; i < end; i += W) simd::store(a + i, simd::load(b + i));
                                });
                              });
  out.triad_bytes_per_second = 3 * bytes / best_seconds(repeats, [&] {
                                 pass([&](Index begin, Index end) {
                                   for (Index i = begin; i < end; i += W)
                                     simd::store(a + i, simd::load(b + i) + 3.0f * simd::load(c + i));
                                 });
                               });
  out.bytes_per_second = std::max(out.copy_bytes_per_second, out.triad_bytes_per_second);
}

/// Every thread multiplies matrices of its own. In a parallel region of several threads Eigen's product keeps to the one it is on.
template <class A>
double measure_product(int threads, Index n) {
  using Matrix = Eigen::Matrix<A, Eigen::Dynamic, Eigen::Dynamic>;
  std::vector<Matrix> a, b, c;
  for (int t = 0; t < threads; ++t) {
    a.push_back(Matrix::Random(n, n));
    b.push_back(Matrix::Random(n, n));
    c.push_back(Matrix::Zero(n, n));
  }
  double const seconds = best_seconds(7, [&] {
    blackmamba::parallel_for(threads, threads, [&](Index t) {
      auto const i = static_cast<std::size_t>(t);
      c[i].noalias() = a[i] * b[i];
      benchmark::DoNotOptimize(c[i].data());
    });
  });
  double const side = static_cast<double>(n);
  return 2 * side * side * side * threads / seconds;
}

inline Ceilings measure() {
  Ceilings out;
  out.threads = blackmamba::available_threads();
  measure_memory(out);
  out.flops_per_second_f32 = measure_product<float>(out.threads, 1024);
  out.flops_per_second_f64 = measure_product<double>(out.threads, 1024);
  std::fprintf(stderr,
               "ceilings on %d threads: read %.1f, copy %.1f, triad %.1f GB/s; product %.1f GFLOP/s in float, %.1f in double\n",
               out.threads, out.read_bytes_per_second * 1e-9, out.copy_bytes_per_second * 1e-9, out.triad_bytes_per_second * 1e-9,
               out.flops_per_second_f32 * 1e-9, out.flops_per_second_f64 * 1e-9);
  return out;
}

}  // namespace detail

/// Measured at the first call, which also prints them to the standard error.
inline Ceilings const& ceilings() {
  static Ceilings const measured = detail::measure();
  return measured;
}

/// Adds "GB/s", "GFLOP/s" and "share": the larger of the shares of the two ceilings; the label says of which. The benchmark must
/// have `UseRealTime()`, or rates are per second of the calling thread. `A` is the scalar of the arithmetic, float or double.
template <class A = float>
void report(benchmark::State& state, double bytes_per_iteration, double flops_per_iteration) {
  using benchmark::Counter;
  auto const& limit = ceilings();
  double const flops_ceiling = std::is_same_v<A, double> ? limit.flops_per_second_f64 : limit.flops_per_second_f32;
  // Seconds that one iteration would take at either ceiling; times iterations per second they are the shares.
  double const at_memory = bytes_per_iteration / limit.bytes_per_second;
  double const at_arithmetic = flops_per_iteration / flops_ceiling;
  auto const rate = Counter::kIsIterationInvariantRate;
  state.counters["GB/s"] = Counter(bytes_per_iteration * 1e-9, rate);
  state.counters["GFLOP/s"] = Counter(flops_per_iteration * 1e-9, rate);
  state.counters["share"] = Counter(std::max(at_memory, at_arithmetic), rate);
  state.SetLabel(at_memory >= at_arithmetic ? "of memory" : "of arithmetic");
}

}  // namespace bench
