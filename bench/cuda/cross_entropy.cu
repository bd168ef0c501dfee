// Cross-entropy and softmax over a vocabulary on a GPU: a few rows are checked against the reference in double, then all is timed.
//
// Times are medians of graph replays over sets of logits that together exceed the L2 cache. The share is that of the copy bandwidth
// of this run, counting logits once where they are read and once where they are written.

#include <cstdio>

#include <blackmamba/cuda.cuh>

#include "support/cuda.cuh"

using namespace blackmamba;

namespace {

__global__ void targets_kernel(Token* targets, Index rows, Index V) {
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < rows; i += Index{gridDim.x} * blockDim.x)
    targets[i] = static_cast<Token>((i * 2654435761ll) % V);
}

template <class T>
void run(Cuda const& ctx, bench::Ceilings const& ceilings, Index rows, Index V) {
  Shape<2> const shape{rows, V};
  double const bytes = static_cast<double>(rows) * static_cast<double>(V) * sizeof(T);
  struct Set {
    DeviceTensor<T, 2> logits, out;
  };
  int const sets = bench::sets_of(bytes), calls = std::max(sets, 2);
  std::vector<Set> buffers;
  for (int i = 0; i < sets; ++i)
    buffers.push_back({bench::random_on_device<T>(ctx, shape, static_cast<std::uint64_t>(i + 1), 0, 8), {ctx, shape}});
  auto const of = [&](int i) -> Set const& { return buffers[static_cast<std::size_t>(i % sets)]; };
  DeviceTensor<Token, 1> const targets{ctx, Shape<1>{rows}};
  DeviceTensor<accumulator_t<T>, 1> const losses{ctx, Shape<1>{rows}};
  targets_kernel<<<256, 256, 0, ctx.stream()>>>(targets.data(), rows, V);
  detail::check_launch("targets_kernel");
  double const scale = 1.0 / static_cast<double>(rows), z = 1e-4;
  auto const forward = [&](int i) {
    cross_entropy(
        ctx, CrossEntropyArgs<T>{.logits = of(i).logits.view(), .targets = targets.view(), .z_coefficient = z, .losses = losses});
  };
  auto const backward = [&](View<T, 2> const& logits, View<T, 2> const& to) {
    cross_entropy_backward(ctx,
                           CrossEntropyBackwardArgs<T>{
                               .logits = logits, .targets = targets.view(), .z_coefficient = z, .scale = scale, .d_logits = to});
  };
  auto const logarithms = [&](int i) { log_softmax(ctx, SoftmaxArgs<T>{.x = of(i).logits.view(), .y = of(i).out}); };

  // The last 4 rows, from poisoned outputs.
  auto const& [logits, out] = of(0);
  Index const first = rows - std::min<Index>(rows, 4), count = rows - first;
  auto const part = [&](auto const& from) { return to_host(ctx, from.view().slice(0, first, count)); };
  auto const x = converted<double>(part(logits));
  auto const t = part(targets);
  Tensor<double, 1> expected{t.shape()};
  Tensor<double, 2> y{x.shape()};
  verify::Cost const cost{.terms = static_cast<double>(V), .scale = 8};
  bench::poison(ctx, losses);
  forward(0);
  cross_entropy(Reference{}, CrossEntropyArgs<double>{.logits = x, .targets = t, .z_coefficient = z, .losses = expected});
  bench::expect_close<accumulator_t<T>>("losses", part(losses), expected, cost);
  bench::poison(ctx, out), backward(logits, out);
  cross_entropy_backward(
      Reference{}, CrossEntropyBackwardArgs<double>{.logits = x, .targets = t, .z_coefficient = z, .scale = scale, .d_logits = y});
  bench::expect_close<T>("d_logits", part(out), y, {.terms = static_cast<double>(V), .scale = scale});
  bench::poison(ctx, out), logarithms(0);
  log_softmax(Reference{}, SoftmaxArgs<double>{.x = x, .y = y});
  bench::expect_close<T>("log_softmax", part(out), y, cost);

  auto const report = [&](char const* what, double ms, double moved) {
    std::printf("%-24s %-5s %6lld %6lld %9.1f %7.0f %6.1f%%\n", what, scalar_traits<T>::name, rows, V, 1e3 * ms, moved / ms * 1e-6,
                1e5 * moved / ms / ceilings.bytes_per_second);
  };
  int const replays = 11;
  report("cross_entropy", bench::milliseconds(ctx, calls, forward, replays), bytes);
  report("cross_entropy_backward",
         bench::milliseconds(
             ctx, calls, [&](int i) { backward(of(i).logits, of(i).out); }, replays),
         2 * bytes);
  report("log_softmax", bench::milliseconds(ctx, calls, logarithms, replays), 2 * bytes);
  // Last, for it overwrites the logits.
  report("backward in place",
         bench::milliseconds(
             ctx, calls, [&](int i) { backward(of(i).logits, of(i).logits); }, replays),
         2 * bytes);
}

}  // namespace

int main() {
  return bench::program("every checked output is within its allowed error", [](Cuda const& ctx, bench::Ceilings const& ceilings) {
    std::printf("what                     type    rows      V        us    GB/s   share\n");
    run<bf16>(ctx, ceilings, 16384, 50304);
    run<bf16>(ctx, ceilings, 16384, 50280);
    run<bf16>(ctx, ceilings, 4096, 50257);
    run<float>(ctx, ceilings, 4096, 50304);
    run<bf16>(ctx, ceilings, 65536, 1024);
    run<bf16>(ctx, ceilings, 64, 50304);
  });
}
