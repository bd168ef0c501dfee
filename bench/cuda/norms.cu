// The normalisations on a GPU, with the residual add, forward and backward: a few rows are checked against the reference in double,
// then all is timed.
//
// Times are medians of graph replays over buffer sets that together exceed the L2 cache. The share is that of the copy bandwidth of
// this run, counting each tensor once for each time it must be read or written: forward x, the float32 stream twice, y; backward
// the stream, d_y, the stream's gradient twice, d_x.

#include <cstdio>

#include <blackmamba/cuda.cuh>

#include "support/cuda.cuh"

using namespace blackmamba;

namespace {

struct Rms {
  static constexpr char const* name = "rms_norm";
  template <class T>
  using Forward = RmsNormArgs<T>;
  template <class T>
  using Backward = RmsNormBackwardArgs<T>;
  static void forward(auto const& ctx, auto const& a) { rms_norm(ctx, a); }
  static void backward(auto const& ctx, auto const& a) { rms_norm_backward(ctx, a); }
};
struct Layer {
  static constexpr char const* name = "layer_norm";
  template <class T>
  using Forward = LayerNormArgs<T>;
  template <class T>
  using Backward = LayerNormBackwardArgs<T>;
  static void forward(auto const& ctx, auto const& a) { layer_norm(ctx, a); }
  static void backward(auto const& ctx, auto const& a) { layer_norm_backward(ctx, a); }
};

template <class Norm, class T>
void run(Cuda const& ctx, bench::Ceilings const& ceilings, Index rows, Index D) {
  struct Set {
    DeviceTensor<T, 2> x, d_y, y, d_x;
    DeviceTensor<float, 2> stream, d_stream;
  };
  Shape<2> const shape{rows, D};
  double const elements = static_cast<double>(rows) * static_cast<double>(D);
  int const sets = bench::sets_of(elements * 8);
  auto const weight = bench::random_on_device<T>(ctx, Shape<1>{D}, 1);
  auto const d_weight = bench::random_on_device<float>(ctx, Shape<1>{D}, 2);
  std::vector<Set> buffers;
  for (int i = 0; i < sets; ++i) {
    auto const stream = static_cast<std::uint64_t>(16 * (i + 1));
    buffers.push_back({bench::random_on_device<T>(ctx, shape, stream), bench::random_on_device<T>(ctx, shape, stream + 1),
                       DeviceTensor<T, 2>{ctx, shape}, DeviceTensor<T, 2>{ctx, shape},
                       bench::random_on_device<float>(ctx, shape, stream + 2),
                       bench::random_on_device<float>(ctx, shape, stream + 3)});
  }
  auto const forward = [&](int i) {
    auto const& b = buffers[static_cast<std::size_t>(i % sets)];
    typename Norm::template Forward<T> a;
    a.x = b.x.view(), a.weight = weight.view(), a.residual = b.stream, a.y = b.y;
    Norm::forward(ctx, a);
  };
  auto const backward = [&](int i) {
    auto const& b = buffers[static_cast<std::size_t>(i % sets)];
    typename Norm::template Backward<T> a;
    a.weight = weight.view(), a.residual = b.stream.view(), a.d_y = b.d_y.view(), a.d_residual = b.d_stream, a.d_x = b.d_x;
    a.d_weight = d_weight;
    if constexpr (std::is_same_v<Norm, Layer>) a.d_bias = d_weight;
    Norm::backward(ctx, a);
  };

  // The last 8 rows, from poisoned outputs.
  auto const& b0 = buffers[0];
  bench::poison_all(ctx, b0.y, b0.d_x);
  auto const part = [&](auto const& from) { return to_host(ctx, from.view().slice(0, rows - 8, 8)); };
  auto const x = converted<double>(part(b0.x)), d_y = converted<double>(part(b0.d_y));
  auto stream = converted<double>(part(b0.stream)), d_stream = converted<double>(part(b0.d_stream));
  auto const host_weight = converted<double>(to_host(ctx, weight));
  forward(0), backward(0);
  Tensor<double, 2> y{x.shape()}, d_x{x.shape()};
  typename Norm::template Forward<double> f;
  f.x = x, f.weight = host_weight, f.residual = stream, f.y = y;
  Norm::forward(Reference{}, f);
  typename Norm::template Backward<double> r;
  r.weight = host_weight, r.residual = stream, r.d_y = d_y, r.d_residual = d_stream, r.d_x = d_x;
  Norm::backward(Reference{}, r);
  verify::Cost const cost{.terms = static_cast<double>(D)};
  bench::expect_close<T>("y", part(b0.y), y, cost);
  bench::expect_close<T>("d_x", part(b0.d_x), d_x, cost);
  bench::expect_close<float>("d_residual", part(b0.d_stream), d_stream, cost);

  auto const report = [&](char const* what, double ms, double bytes) {
    std::printf("%-10s %-8s %-5s %6lld %5lld %9.2f %7.0f %6.1f%%\n", Norm::name, what, scalar_traits<T>::name, rows, D, 1e3 * ms,
                bytes / ms * 1e-6, 1e5 * bytes / ms / ceilings.bytes_per_second);
  };
  report("forward", bench::milliseconds(ctx, std::max(sets, 4), forward), elements * (2 * sizeof(T) + 8));
  report("backward", bench::milliseconds(ctx, std::max(sets, 4), backward), elements * (2 * sizeof(T) + 12));
}

}  // namespace

int main() {
  return bench::program("every checked output is within its allowed error", [](Cuda const& ctx, bench::Ceilings const& ceilings) {
    std::printf("what                type    rows     D        us    GB/s   share\n");
    run<Rms, bf16>(ctx, ceilings, 16384, 1152);
    run<Rms, bf16>(ctx, ceilings, 16384, 1472);
    run<Rms, bf16>(ctx, ceilings, 64, 1152);
    run<Rms, float>(ctx, ceilings, 16384, 1152);
    run<Layer, bf16>(ctx, ceilings, 16384, 1152);
  });
}
