#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/linear.hpp>

#include "cuda/support.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::random_tensor;
using test::same_bits;
using verify::LinearBackwardProblem;
using verify::LinearBackwardSize;
using verify::LinearProblem;
using verify::LinearSize;

namespace {

void expect_right(verify::Report const& report) {
  INFO(report.table());
  CHECK(static_cast<bool>(report));
}

/// Few rows and few outputs, aligned to 16 bytes, to 8 and to nothing; tiles of every kernel, more and less by one.
std::vector<LinearSize> sizes() {
  std::vector<LinearSize> out{{1, 5, 0},     {300, 7, 0, false},   {300, 8, 1152, false}, {1031, 16, 72},  {77, 3, 40, false},
                              {65, 130, 72}, {129, 257, 64},       {200, 96, 100},        {70, 33, 31},    {513, 17, 24, false},
                              {64, 64, 64},  {16, 4608, 8, false}, {600, 300, 124},       {600, 299, 123}, {300, 444, 250, false}};
  for (Index K : {72, 136, 1208, 2404}) out.push_back({1, 4300, K, K == 72});
  for (Index M : {1, 2, 7, 8, 9, 16, 17, 32, 33, 64})
    for (Index K : {8, 72, 92, 1152}) out.push_back({M, M == 1 ? 104 : 67, K, M % 2 == 1});
  return out;
}

template <class T, int Rank>
__global__ void copy_kernel(View<T const, Rank> from, View<T, Rank> to) {
  for (Index n = Index{blockIdx.x} * blockDim.x + threadIdx.x; n < to.size(); n += Index{gridDim.x} * blockDim.x) {
    if constexpr (Rank == 1)
      to[n] = from[n];
    else
      to(n / to.extent(1), n % to.extent(1)) = from(n / to.extent(1), n % to.extent(1));
  }
}

/// Views with gaps of contiguous tensors' contents, and back.
class Spread {
 public:
  Spread(Cuda const& ctx, Index row_gap, Index step) : ctx_{ctx}, row_gap_{row_gap}, step_{step} {}

  template <class T, int Rank>
  View<T, Rank> operator()(View<T, Rank> from) {
    using E = std::remove_const_t<T>;
    if (!from) return from;
    Shape<Rank> stride;
    stride[Rank - 1] = step_;
    if constexpr (Rank == 2) stride[0] = from.extent(1) * step_ + row_gap_;
    auto const memory =
        std::make_shared<DeviceTensor<E, 1>>(ctx_, Shape<1>{1 + (Rank == 2 ? from.extent(0) * stride[0] : from.extent(0) * step_)});
    kept_.push_back(memory);
    View<E, Rank> const out{memory->data(), from.shape(), stride};
    copy(View<E const, Rank>{from}, out);
    if constexpr (!std::is_const_v<T>) back_.push_back([this, from, out] { copy(View<E const, Rank>{out}, from); });
    return out;
  }
  void back() {
    for (auto const& one : back_) one();
    ctx_.synchronize();
  }

 private:
  template <class T, int Rank>
  void copy(View<T const, Rank> from, View<T, Rank> to) {
    if (to.size() == 0) return;
    copy_kernel<<<64, 256, 0, ctx_.stream()>>>(from, to);
    detail::check_launch("copy_kernel");
  }

  Cuda ctx_;
  Index row_gap_, step_;
  std::vector<std::shared_ptr<void>> kept_;
  std::vector<std::function<void()>> back_;
};

}  // namespace

GPU_TEST_TEMPLATE("linear on a GPU: every shape agrees with the double reference", T, float, double, Half, bf16) {
  Cuda const ctx;
  expect_right(verify::check<LinearProblem, T>(ctx));
  expect_right(verify::check<LinearProblem, T>(ctx, {}, sizes()));
}

GPU_TEST_TEMPLATE("linear_backward on a GPU: every shape and choice of gradients agrees with the double reference", T, float,
                  double, Half, bf16) {
  Cuda const ctx;
  expect_right(verify::check<LinearBackwardProblem, T>(ctx));
  expect_right(verify::check<LinearBackwardProblem, T>(ctx, {},
                                                       {{1700, 8, 40},
                                                        {1030, 104, 72},
                                                        {4100, 24, 8},
                                                        {64, 128, 96, true, true, true, true},
                                                        {300, 31, 33},
                                                        {5000, 9, 7},
                                                        {16, 260, 64},
                                                        {1500, 124, 92},
                                                        {1500, 123, 91},
                                                        {1030, 104, 72, true, true, false, false, true},
                                                        {1500, 124, 92, true, false, false, false, true},
                                                        {1500, 123, 91, true, false, false, false, true},
                                                        {70, 31, 33, true, false, false, false, true}}));
}

GPU_TEST_TEMPLATE("linear and linear_backward on a GPU: any strides agree with the double reference", T, float, Half, bf16) {
  Cuda const ctx;
  for (auto const& [gap, step] : {std::pair<Index, Index>{8, 1}, {4, 1}, {3, 1}, {1, 2}}) {
    CAPTURE(gap);
    expect_right(verify::check_with<LinearProblem, T>(
        [&](LinearArgs<T> a) {
          Spread spread{ctx, gap, step};
          a.x = spread(a.x), a.weight = spread(a.weight), a.bias = spread(a.bias), a.y = spread(a.y);
          linear(ctx, a);
          spread.back();
        },
        {}, {{1, 24, 64}, {9, 40, 16}, {65, 72, 80}, {130, 8, 32}, {100, 30, 17}, {600, 300, 124}}, ctx));
    expect_right(verify::check_with<LinearBackwardProblem, T>(
        [&](LinearBackwardArgs<T> a) {
          Spread spread{ctx, gap, step};
          a.x = spread(a.x), a.weight = spread(a.weight), a.d_y = spread(a.d_y), a.d_x = spread(a.d_x);
          a.d_weight = spread(a.d_weight), a.d_bias = spread(a.d_bias);
          linear_backward(ctx, a);
          spread.back();
        },
        {}, {{65, 72, 80}, {130, 8, 32}, {100, 30, 17}, {600, 300, 124}, {600, 300, 124, true, false, false, false, true}}, ctx));
  }
}

GPU_TEST("linear on a GPU: a weight that is one row, seen many times, is a legal view") {
  Cuda const ctx;
  auto const x = to_device(ctx, random_tensor<float>(Shape<2>{3, 40}, 1)),
             row = to_device(ctx, random_tensor<float>(Shape<2>{1, 40}, 2));
  DeviceTensor<float, 2> const y{ctx, Shape<2>{3, 70}}, one{ctx, Shape<2>{3, 1}};
  linear(ctx, LinearArgs<float>{
                  .x = x.view(), .weight = View<float const, 2>{row.data(), Shape<2>{70, 40}, Shape<2>{0, 1}}, .bias = {}, .y = y});
  linear(ctx, LinearArgs<float>{.x = x.view(), .weight = row.view(), .bias = {}, .y = one});
  auto const many = to_host(ctx, y), single = to_host(ctx, one);
  for (Index m = 0; m < 3; ++m)
    for (Index n = 0; n < 70; ++n) CHECK(many(m, n) == doctest::Approx(single(m, 0)).epsilon(1e-5));
}

GPU_TEST("linear on a GPU: a product whose weight the kernel just before wrote sees what was written") {
  Cuda const ctx;
  Index const N = 2048;
  auto const x = to_device(ctx, random_tensor<bf16>(Shape<2>{1, N}, 1)),
             w = to_device(ctx, random_tensor<bf16>(Shape<2>{8 * N, N}, 2));
  auto const other = to_device(ctx, random_tensor<bf16>(Shape<2>{8, N}, 3));
  // y is the weight of the next product, and z its input.
  DeviceTensor<bf16, 2> const y{ctx, Shape<2>{8, 8 * N}}, z{ctx, Shape<2>{1, 8}}, again{ctx, Shape<2>{1, 8 * N}};
  auto const weights = View<bf16 const, 2>{y.view()}.slice(1, 0, N);
  auto const run = [&](View<bf16 const, 2> rows) {
    linear(ctx, LinearArgs<bf16>{.x = rows, .weight = w.view(), .bias = {}, .y = y});
    linear(ctx, LinearArgs<bf16>{.x = x.view(), .weight = weights, .bias = {}, .y = z});
    linear(ctx, LinearArgs<bf16>{.x = z.view(), .weight = w.view().slice(1, 0, 8), .bias = {}, .y = again});
  };
  auto const expected = [&] {
    run(other.view());
    ctx.synchronize();
    linear(ctx, LinearArgs<bf16>{.x = x.view(), .weight = weights, .bias = {}, .y = z});
    ctx.synchronize();
    linear(ctx, LinearArgs<bf16>{.x = z.view(), .weight = w.view().slice(1, 0, 8), .bias = {}, .y = again});
    return to_host(ctx, again);
  }();
  auto const wrong = w.view().slice(0, 0, 8);
  for (int i = 0; i < 20; ++i) {
    run(wrong);
    run(other.view());
    CHECK(same_bits(to_host(ctx, again), expected));
  }
}

GPU_TEST("linear on a GPU: weights said to be at rest change no bit") {
  Cuda const ctx;
  Index const N = 520, K = 1152, layers = 6;
  auto const down = to_device(ctx, random_tensor<bf16>(Shape<2>{layers * K, N}, 2));
  auto const up = to_device(ctx, random_tensor<bf16>(Shape<2>{layers * N, K}, 3));
  for (Index const M : {1, 3, 16}) {
    auto const x = to_device(ctx, random_tensor<bf16>(Shape<2>{M, K}, 1));
    DeviceTensor<bf16, 2> const y{ctx, Shape<2>{M, N}}, z{ctx, Shape<2>{M, K}};
    auto const run = [&] {
      for (Index i = 0; i < layers; ++i) {
        linear(ctx,
               LinearArgs<bf16>{.x = i == 0 ? x.view() : z.view(), .weight = up.view().slice(0, i * N, N), .bias = {}, .y = y});
        linear(ctx, LinearArgs<bf16>{.x = y.view(), .weight = down.view().slice(0, i * K, K), .bias = {}, .y = z});
      }
    };
    run();
    auto const expected = to_host(ctx, z);
    detail::WeightsAtRest const at_rest{ctx};
    test::Graph const graph{ctx, run};
    for (int i = 0; i < 5; ++i) {
      graph.replay(), run();
      CHECK(same_bits(to_host(ctx, z), expected));
    }
  }
}

GPU_TEST("linear and linear_backward on a GPU: the same bits twice, and in a graph that allocates nothing") {
  for (auto const& [M, N, K] : {std::tuple<Index, Index, Index>{1700, 264, 136},
                                {1, 104, 2304},
                                {1, 24, 92},
                                {16, 520, 256},
                                {64, 256, 128},
                                {4000, 8, 1152},
                                {300, 37, 41}}) {
    CAPTURE(M);
    Cuda const ctx;
    auto const x = to_device(ctx, random_tensor<bf16>(Shape<2>{M, K}, 1)),
               weight = to_device(ctx, random_tensor<bf16>(Shape<2>{N, K}, 2));
    auto const bias = to_device(ctx, random_tensor<bf16>(Shape<1>{N}, 3));
    auto const d_y = to_device(ctx, random_tensor<bf16>(Shape<2>{M, N}, 4));
    DeviceTensor<bf16, 2> const y{ctx, Shape<2>{M, N}}, d_x{ctx, Shape<2>{M, K}};
    DeviceTensor<float, 2> const d_weight{ctx, Shape<2>{N, K}};
    DeviceTensor<float, 1> const d_bias{ctx, Shape<1>{N}};
    auto const run = [&] {
      detail::check_cuda(cudaMemsetAsync(d_weight.data(), 0, static_cast<std::size_t>(d_weight.size()) * 4, ctx.stream()),
                         "memset");
      detail::check_cuda(cudaMemsetAsync(d_bias.data(), 0, static_cast<std::size_t>(d_bias.size()) * 4, ctx.stream()), "memset");
      linear(ctx, LinearArgs<bf16>{.x = x.view(), .weight = weight.view(), .bias = bias.view(), .y = y});
      linear_backward(
          ctx, LinearBackwardArgs<bf16>{
                   .x = x.view(), .weight = weight.view(), .d_y = d_y.view(), .d_x = d_x, .d_weight = d_weight, .d_bias = d_bias});
    };
    auto const results = [&] {
      return std::tuple{to_host(ctx, y), to_host(ctx, d_x), to_host(ctx, d_weight), to_host(ctx, d_bias)};
    };
    // A context's first products may be recorded: what they need once is no part of the graph. Scratch memory must be there.
    ctx.scratch().reserve(std::size_t{16} << 20);
    test::Graph const graph{ctx, run};
    graph.replay();
    auto const expected = results();
    auto const expect_same = [&] {
      auto const got = results();
      CHECK(same_bits(std::get<0>(got), std::get<0>(expected)));
      CHECK(same_bits(std::get<1>(got), std::get<1>(expected)));
      CHECK(same_bits(std::get<2>(got), std::get<2>(expected)));
      CHECK(same_bits(std::get<3>(got), std::get<3>(expected)));
    };
    run();
    expect_same();
    run();
    expect_same();
    graph.replay();
    expect_same();
  }
}
