// Both forms of Sinkhorn's iteration on a GPU, checked against the reference in double first. Times are medians of graph replays
// over buffer sets that together exceed the L2 cache; tolerance 0, so that the number of iterations is the one that is said. Bytes
// are those of logits and plan, each moved once; the share is that of the copy bandwidth of this run.

#include <cstdio>

#include <blackmamba/ops/sinkhorn/cuda.cuh>

#include "support/cuda.cuh"

using namespace blackmamba;

namespace {

/// The published code in eager PyTorch 2.11 on an H100, 16384 × 8: the least of one iteration, and 11 iterations.
constexpr double torch_one_ms = 0.175, torch_eleven_ms = 2.6;

template <class T>
void run(Cuda const& ctx, bench::Ceilings const& ceilings, Index tokens, Index E, Index iterations) {
  using A = accumulator_t<T>;
  struct Set {
    DeviceTensor<T, 2> logits;
    DeviceTensor<A, 2> plan;
  };
  Shape<2> const shape{tokens, E};
  double const bytes = static_cast<double>(tokens * E) * (sizeof(T) + sizeof(A));
  int const sets = bench::sets_of(bytes);
  std::vector<Set> buffers;
  for (int i = 0; i < sets; ++i)
    buffers.push_back(
        {bench::random_on_device<T>(ctx, shape, static_cast<std::uint64_t>(i + 1), 0, 2), DeviceTensor<A, 2>{ctx, shape}});
  auto const potentials = to_device(ctx, Tensor<A, 1>{Shape<1>{E}});
  DeviceTensor<SinkhornReport, 1> const report{ctx, Shape<1>{1}};
  auto const published = [&](int i) {
    auto const& b = buffers[static_cast<std::size_t>(i % sets)];
    sinkhorn(ctx, SinkhornArgs<T>{
                      .logits = b.logits.view(), .plan = b.plan, .tolerance = 0, .max_iterations = iterations, .report = report});
  };
  auto const in_logs = [&](int i) {
    auto const& b = buffers[static_cast<std::size_t>(i % sets)];
    sinkhorn_log(ctx, SinkhornLogArgs<T>{.logits = b.logits.view(),
                                         .plan = b.plan,
                                         .tolerance = 0,
                                         .max_iterations = iterations,
                                         .potentials = potentials,
                                         .report = report});
  };
  auto const logits = converted<double>(to_host(ctx, buffers[0].logits));
  Tensor<double, 2> plan{shape};
  verify::Cost const cost{.terms = static_cast<double>(iterations * (tokens + E))};
  auto const check = [&](char const* name) {
    bench::expect_close<A>(name, to_host(ctx, buffers[0].plan), plan, cost);
    Index const made = to_host(ctx, report)(0).iterations;
    if (made != iterations) std::printf("  %s: %lld iterations, not %lld\n", name, made, iterations);
  };
  bench::poison(ctx, buffers[0].plan);
  published(0);
  sinkhorn(Reference{}, SinkhornArgs<double>{.logits = logits, .plan = plan, .tolerance = 0, .max_iterations = iterations});
  check("sinkhorn");
  bench::poison(ctx, buffers[0].plan);
  in_logs(0);
  sinkhorn_log(Reference{}, SinkhornLogArgs<double>{.logits = logits, .plan = plan, .tolerance = 0, .max_iterations = iterations});
  check("sinkhorn_log");
  double const one = bench::milliseconds(ctx, std::max(sets, 4), published);
  auto const zero = [&] {
    detail::check_cuda(cudaMemsetAsync(potentials.data(), 0, static_cast<std::size_t>(E) * sizeof(A), ctx.stream()), "memset");
  };
  // From zero every time, at the cost of a memset, so that potentials do not come to rest.
  double const two = bench::milliseconds(ctx, std::max(sets, 4), [&](int i) { zero(), in_logs(i); });
  std::printf("%-5s %7lld %4lld %4lld %12.2f %6.1f%% %12.2f", scalar_traits<T>::name, tokens, E, iterations, 1e3 * one,
              1e5 * bytes / one / ceilings.bytes_per_second, 1e3 * two);
  if (tokens == 16384 && E == 8 && iterations == 1)
    std::printf("   eager PyTorch at best %.0f: %.1fx", 1e3 * torch_one_ms, torch_one_ms / one);
  if (tokens == 16384 && E == 8 && iterations == 8)
    std::printf("   eager PyTorch %.0f, for 11: %.1fx", 1e3 * torch_eleven_ms, torch_eleven_ms / one);
  if (tokens == 16384 && E == 8 && iterations == 11)
    std::printf("   eager PyTorch %.0f: %.1fx", 1e3 * torch_eleven_ms, torch_eleven_ms / one);
  std::printf("\n");
}

}  // namespace

int main() {
  return bench::program("every checked plan is within its allowed error", [](Cuda const& ctx, bench::Ceilings const& ceilings) {
    std::printf("a cluster of 16 blocks %s\n\n",
                detail::clusters_fit<float, detail::sinkhorn_kernel<float, 1>, 1024>(0) ? "fits" : "does not fit");
    std::printf("type   tokens    E   it  sinkhorn µs   share  sinkhorn_log µs (a memset more)\n");
    for (Index iterations : {1, 8, 11}) run<bf16>(ctx, ceilings, 16384, 8, iterations);
    run<float>(ctx, ceilings, 16384, 8, 8);
    run<bf16>(ctx, ceilings, 64, 8, 8);
    run<bf16>(ctx, ceilings, 2048, 8, 8);
    run<bf16>(ctx, ceilings, 2048, 64, 8);
    run<bf16>(ctx, ceilings, 16384, 64, 8);
    run<bf16>(ctx, ceilings, 65536, 8, 8);
  });
}
