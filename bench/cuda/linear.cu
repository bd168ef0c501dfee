// The linear map on a GPU at the products of the published sizes: many rows forward and backward, and the few rows of decoding.
// Outputs are poisoned and some are checked against the reference in double, then all is timed.
//
// Times are medians of graph replays. With few rows the weights of one call after the other are different ones, which together
// exceed the L2 cache; a graph is a chain of such calls on one stream, as a model's step is. The share is that of the copy
// bandwidth of this run, counting each operand once for each time it must be read or written, or that of an 8192³ product in the
// same run, whichever of the two says that it takes longer.

#include <cmath>
#include <cstdio>

#include <blackmamba/cuda.cuh>

#include "support/product.cuh"

using namespace blackmamba;

namespace {

double bytes_per_ms = 1, flops_per_ms = 1;

struct Map {
  char const* name;
  Index N, K, x_stride;
  bool bias;
};

/// The maps of a Mamba layer, and the router's before the experts.
std::vector<Map> maps(Index D) {
  Index const E = 2 * D, rank = D / 16, states = 16;
  return {{"in_proj", 2 * E, D, D, false},
          {"x_proj", rank + 2 * states, E, E, false},
          {"dt_proj", E, rank, rank + 2 * states, true},
          {"out_proj", D, E, E, false},
          {"router", 8, D, D, false}};
}

template <class T>
void expect_sums(char const* name, Index terms, Tensor<T, 2> const& got, Tensor<double, 2> const& expected) {
  auto const n = static_cast<double>(terms);
  bench::expect_close<T>(name, got, expected, {.terms = n, .scale = std::sqrt(n)});
}

/// Part of the matrix that `random_on_device` makes of a stream, widened: `rows` rows from `row` on of `columns` columns from
/// `column` on, of the `width` that there are.
template <class T>
Tensor<double, 2> random_part(std::uint64_t stream, Index width, Index row, Index rows, Index column, Index columns) {
  Tensor<double, 2> out{Shape<2>{rows, columns}};
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < columns; ++j)
      out(i, j) = static_cast<double>(widen(static_cast<T>(
          std::fma(1.0f, bench::uniform(stream, static_cast<std::uint64_t>((row + i) * width + column + j)), 0.0f))));
  return out;
}

void report(char const* what, char const* name, Index M, Index N, Index K, double ms, double flops, double bytes) {
  double const floor = std::max(bytes / bytes_per_ms, flops / flops_per_ms);
  std::printf("%-8s %-8s %6lld %6lld %5lld %9.2f %8.0f %8.1f %7.1f%%\n", what, name, M, N, K, 1e3 * ms, bytes / ms * 1e-6,
              flops / ms * 1e-9, 100 * floor / ms);
}

/// Many rows: forward, then all gradients in one call.
template <class T>
void run_many(Cuda const& ctx, Map const& map, Index M) {
  auto const [name, N, K, stride, with_bias] = map;
  auto const wide_x = bench::random_on_device<T>(ctx, Shape<2>{M, stride}, 1),
             d_y = bench::random_on_device<T>(ctx, Shape<2>{M, N}, 2);
  auto const weight = bench::random_on_device<T>(ctx, Shape<2>{N, K}, 3);
  auto const bias = bench::random_on_device<T>(ctx, Shape<1>{N}, 4);
  DeviceTensor<T, 2> const y{ctx, Shape<2>{M, N}}, d_x{ctx, Shape<2>{M, K}};
  DeviceTensor<float, 2> const d_weight{ctx, Shape<2>{N, K}};
  DeviceTensor<float, 1> const d_bias{ctx, Shape<1>{N}};
  auto const x = View<T const, 2>{wide_x.view()}.slice(1, 0, K);
  LinearArgs<T> f{.x = x, .weight = weight.view(), .bias = {}, .y = y};
  LinearBackwardArgs<T> b{.x = x, .weight = weight.view(), .d_y = d_y.view(), .d_x = d_x, .d_weight = d_weight};
  if (with_bias) f.bias = bias.view(), b.d_bias = d_bias;

  bench::poison(ctx, y), bench::poison(ctx, d_x);
  detail::check_cuda(cudaMemsetAsync(d_weight.data(), 0, static_cast<std::size_t>(d_weight.size()) * 4, ctx.stream()), "memset");
  linear(ctx, f), linear_backward(ctx, b);
  // The last two rows of y and d_x, the last two of d_weight.
  auto const host_weight = random_part<T>(3, K, 0, N, 0, K), host_bias = random_part<T>(4, N, 0, 1, 0, N);
  auto const host_x = random_part<T>(1, stride, 0, M, 0, K), row_d_y = random_part<T>(2, N, M - 2, 2, 0, N);
  auto const column_d_y = random_part<T>(2, N, 0, M, N - 2, 2);
  auto const tail = [](Tensor<double, 2> const& from) { return from.view().slice(0, from.extent(0) - 2, 2); };
  Tensor<double, 2> two_y{Shape<2>{2, N}}, two_d_x{Shape<2>{2, K}}, two_d_weight{Shape<2>{2, K}};
  std::fill(two_d_weight.begin(), two_d_weight.end(), 0.0);
  LinearArgs<double> rf{.x = tail(host_x), .weight = host_weight, .bias = {}, .y = two_y};
  if (with_bias) rf.bias = host_bias.view()[0];
  linear(Reference{}, rf);
  linear_backward(Reference{},
                  LinearBackwardArgs<double>{.x = tail(host_x), .weight = host_weight, .d_y = row_d_y, .d_x = two_d_x});
  linear_backward(Reference{}, LinearBackwardArgs<double>{
                                   .x = host_x, .weight = tail(host_weight), .d_y = column_d_y, .d_weight = two_d_weight});
  expect_sums("y", K, to_host(ctx, y.view().slice(0, M - 2, 2)), two_y);
  expect_sums("d_x", N, to_host(ctx, d_x.view().slice(0, M - 2, 2)), two_d_x);
  expect_sums("d_weight", M, to_host(ctx, d_weight.view().slice(0, N - 2, 2)), two_d_weight);

  auto const m = static_cast<double>(M), n = static_cast<double>(N), k = static_cast<double>(K),
             size = static_cast<double>(sizeof(T));
  double const flops = 2 * m * n * k, operands = m * n + m * k + n * k;
  report("forward", name, M, N, K,
         bench::milliseconds(
             ctx, 4, [&](int) { linear(ctx, f); }, 11),
         flops, operands * size);
  auto part = b;
  part.d_weight = {}, part.d_bias = {};
  report("d_x", name, M, N, K,
         bench::milliseconds(
             ctx, 4, [&](int) { linear_backward(ctx, part); }, 11),
         flops, operands * size);
  part = b, part.d_x = {}, part.d_bias = {};
  report("d_weight", name, M, N, K,
         bench::milliseconds(
             ctx, 4, [&](int) { linear_backward(ctx, part); }, 11),
         flops, (m * n + m * k) * size + 8 * n * k);
  if (with_bias) {
    part = b, part.d_x = {}, part.d_weight = {};
    report("d_bias", name, M, N, K,
           bench::milliseconds(
               ctx, 4, [&](int) { linear_backward(ctx, part); }, 11),
           m * n, m * n * size);
  }
}

/// As many weights as exceed the L2 cache, and what is beside them.
template <class T>
struct Few {
  Few(Cuda const& ctx, Map const& of, Index M)
      : map{of},
        weights{bench::random_on_device<T>(ctx, Shape<2>{sets(of) * of.N, of.K}, 3)},
        bias{bench::random_on_device<T>(ctx, Shape<1>{of.N}, 4)},
        x{bench::random_on_device<T>(ctx, Shape<2>{M, of.x_stride}, 1)},
        y{ctx, Shape<2>{M, of.N}} {}

  static Index sets(Map const& map) { return std::max(Index{1}, std::min(Index{256}, Index{90000000} / (map.N * map.K))); }

  LinearArgs<T> args(Index i) const {
    LinearArgs<T> a{.x = View<T const, 2>{x.view()}.slice(1, 0, map.K),
                    .weight = weights.view().slice(0, i % sets(map) * map.N, map.N),
                    .bias = {},
                    .y = y};
    if (map.bias) a.bias = bias.view();
    return a;
  }

  Map map;
  DeviceTensor<T, 2> weights;
  DeviceTensor<T, 1> bias;
  DeviceTensor<T, 2> x, y;
};

template <class T>
void run_few(Cuda const& ctx, Map const& map, Index M) {
  auto const [name, N, K, stride, with_bias] = map;
  Few<T> const few{ctx, map, M};
  bench::poison(ctx, few.y);
  linear(ctx, few.args(0));
  Index const rows = std::min<Index>(M, 2);
  auto const x = random_part<T>(1, stride, M - rows, rows, 0, K), weight = random_part<T>(3, K, 0, N, 0, K);
  auto const bias = random_part<T>(4, N, 0, 1, 0, N);
  Tensor<double, 2> y{Shape<2>{rows, N}};
  LinearArgs<double> r{.x = x, .weight = weight, .bias = {}, .y = y};
  if (with_bias) r.bias = bias.view()[0];
  linear(Reference{}, r);
  expect_sums("y", K, to_host(ctx, few.y.view().slice(0, M - rows, rows)), y);

  auto const m = static_cast<double>(M), n = static_cast<double>(N), k = static_cast<double>(K);
  int const calls = static_cast<int>(std::clamp<Index>(Few<T>::sets(map), 4, 128));
  report("few rows", name, M, N, K,
         bench::milliseconds(
             ctx, calls, [&](int i) { linear(ctx, few.args(i)); }, 11),
         2 * m * n * k, (m * n + m * k + n * k) * sizeof(T));
}

/// The four products of a Mamba layer at one step, one after the other.
template <class T>
void run_chain(Cuda const& ctx, Index D, Index M) {
  std::vector<Few<T>> parts;
  double bytes = 0, flops = 0;
  for (auto const& map : maps(D)) {
    if (map.N == 8) continue;
    parts.emplace_back(ctx, map, M);
    bytes += static_cast<double>((map.N * map.K + M * map.N + M * map.K) * static_cast<Index>(sizeof(T)));
    flops += 2 * static_cast<double>(M * map.N * map.K);
  }
  auto const layer = [&](int i) {
    for (auto const& part : parts) linear(ctx, part.args(i));
  };
  report("few rows", "layer", M, 0, D, bench::milliseconds(ctx, 16, layer), flops, bytes);
  detail::WeightsAtRest const at_rest{ctx};
  report("at rest", "layer", M, 0, D, bench::milliseconds(ctx, 16, layer), flops, bytes);
}

}  // namespace

int main() {
  return bench::program("every checked output is within its allowed error", [](Cuda const& ctx, bench::Ceilings const& ceilings) {
    bytes_per_ms = ceilings.bytes_per_second * 1e-3;
    flops_per_ms = bench::product_flops_per_second(ctx) * 1e-3;
    std::printf("8192³ product %.0f TFLOP/s\n\n", flops_per_ms * 1e-9);
    std::printf("what     map           M      N     K        us     GB/s  TFLOP/s   share\n");
    for (Index const D : {1152, 1472}) {
      for (auto const& map : maps(D)) run_many<bf16>(ctx, map, 16384);
      for (Index const M : {1, 16, 64}) {
        for (auto const& map : maps(D)) run_few<bf16>(ctx, map, M);
        run_few<bf16>(ctx, Map{"lm_head", 50304, D, D, false}, M);
        run_chain<bf16>(ctx, D, M);
      }
    }
    std::printf("float\n");
    for (auto const& map : maps(1152)) run_many<float>(ctx, map, 4096);
    for (auto const& map : maps(1152)) run_few<float>(ctx, map, 1);
  });
}
