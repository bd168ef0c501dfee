// Cross-entropy and softmax over a vocabulary on a GPU: a few rows are checked against the reference in double, then all is timed.
//
// Times are medians of graph replays; the logits are many times the L2 cache. The share is that of the copy bandwidth of this run,
// counting logits once where they are read and once where they are written.

#include <cstdio>

#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/compare.hpp>

#include "support/cuda.cuh"

using namespace blackmamba;

namespace {

bool all_right = true;

template <class T, int Rank>
void expect_close(char const* name, Tensor<T, Rank> const& got, Tensor<double, Rank> const& expected, verify::Cost const& cost) {
  auto const comparison = verify::compare(got.view(), expected.view(), cost);
  all_right = all_right && comparison;
  if (!comparison) std::printf("WRONG %s: %s\n", name, comparison.describe().c_str());
}

__global__ void targets_kernel(Token* targets, Index rows, Index V) {
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < rows; i += Index{gridDim.x} * blockDim.x)
    targets[i] = static_cast<Token>((i * 2654435761ll) % V);
}

template <class T>
void run(Cuda const& ctx, bench::Ceilings const& ceilings, Index rows, Index V) {
  Shape<2> const shape{rows, V};
  double const bytes = static_cast<double>(rows) * static_cast<double>(V) * sizeof(T);
  auto const logits = bench::random_on_device<T>(ctx, shape, 1, 0, 8);
  DeviceTensor<T, 2> const out{ctx, shape};
  DeviceTensor<Token, 1> const targets{ctx, Shape<1>{rows}};
  DeviceTensor<accumulator_t<T>, 1> const losses{ctx, Shape<1>{rows}};
  targets_kernel<<<256, 256, 0, ctx.stream()>>>(targets.data(), rows, V);
  detail::check_launch("targets_kernel");
  double const scale = 1.0 / static_cast<double>(rows), z = 1e-4;
  auto const forward = [&](int) {
    cross_entropy(ctx,
                  CrossEntropyArgs<T>{.logits = logits.view(), .targets = targets.view(), .z_coefficient = z, .losses = losses});
  };
  auto const backward = [&](View<T, 2> const& to) {
    cross_entropy_backward(
        ctx, CrossEntropyBackwardArgs<T>{
                 .logits = logits.view(), .targets = targets.view(), .z_coefficient = z, .scale = scale, .d_logits = to});
  };
  auto const logarithms = [&](int) { log_softmax(ctx, SoftmaxArgs<T>{.x = logits.view(), .y = out}); };

  // The last 4 rows, from poisoned outputs.
  auto const poison = [&] {
    detail::check_cuda(cudaMemsetAsync(out.data(), 0xff, static_cast<std::size_t>(out.size()) * sizeof(T), ctx.stream()), "memset");
  };
  Index const first = rows - std::min<Index>(rows, 4), count = rows - first;
  auto const part = [&](auto const& from) { return to_host(ctx, from.view().slice(0, first, count)); };
  auto const x = converted<double>(part(logits));
  auto const t = part(targets);
  Tensor<double, 1> expected{t.shape()};
  Tensor<double, 2> y{x.shape()};
  verify::Cost const cost{.terms = static_cast<double>(V), .scale = 8};
  forward(0);
  cross_entropy(Reference{}, CrossEntropyArgs<double>{.logits = x, .targets = t, .z_coefficient = z, .losses = expected});
  expect_close("losses", part(losses), expected, cost);
  poison(), backward(out);
  cross_entropy_backward(
      Reference{}, CrossEntropyBackwardArgs<double>{.logits = x, .targets = t, .z_coefficient = z, .scale = scale, .d_logits = y});
  expect_close("d_logits", part(out), y, {.terms = static_cast<double>(V), .scale = scale});
  poison(), logarithms(0);
  log_softmax(Reference{}, SoftmaxArgs<double>{.x = x, .y = y});
  expect_close("log_softmax", part(out), y, cost);

  auto const report = [&](char const* what, double ms, double moved) {
    std::printf("%-24s %-5s %6lld %6lld %9.1f %7.0f %6.1f%%\n", what, scalar_traits<T>::name, rows, V, 1e3 * ms, moved / ms * 1e-6,
                1e5 * moved / ms / ceilings.bytes_per_second);
  };
  int const replays = 11;
  report("cross_entropy", bench::milliseconds(ctx, 2, forward, replays), bytes);
  report("cross_entropy_backward",
         bench::milliseconds(
             ctx, 2, [&](int) { backward(out); }, replays),
         2 * bytes);
  report("log_softmax", bench::milliseconds(ctx, 2, logarithms, replays), 2 * bytes);
  // Last, for it overwrites the logits.
  report("backward in place",
         bench::milliseconds(
             ctx, 2, [&](int) { backward(logits); }, replays),
         2 * bytes);
}

}  // namespace

int main() try {
  if (cuda_device_count() == 0) {
    std::printf("skipped: no NVIDIA GPU here\n");
    return 0;
  }
  Cuda const ctx;
  cudaDeviceProp properties;
  detail::check_cuda(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  auto const ceilings = bench::measure_ceilings(ctx);
  std::printf("%s, %d multiprocessors: copy %.3f TB/s\n\n", properties.name, ctx.multiprocessors(),
              ceilings.bytes_per_second * 1e-12);
  std::printf("what                     type    rows      V        us    GB/s   share\n");
  run<bf16>(ctx, ceilings, 16384, 50304);
  run<bf16>(ctx, ceilings, 16384, 50280);
  run<bf16>(ctx, ceilings, 4096, 50257);
  run<float>(ctx, ceilings, 4096, 50304);
  run<bf16>(ctx, ceilings, 65536, 1024);
  run<bf16>(ctx, ceilings, 64, 50304);
  std::printf(all_right ? "\nevery checked output is within its allowed error\n" : "\nWRONG OUTPUTS\n");
  return all_right ? 0 : 1;
} catch (std::exception const& thrown) {
  std::fprintf(stderr, "%s\n", thrown.what());
  return 1;
}
