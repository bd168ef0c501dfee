#include <blackmamba/cuda.cuh>

#include <cmath>
#include <limits>

#include "cuda/support.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::random_tensor;
using test::same_bits;

namespace {

template <class T>
void check(Cuda const& ctx, View<T const, 2> host, View<T const, 2> there, Index k, bool with_values) {
  INFO(concat("x ", to_string(host.shape()), ", k ", k, ", values ", with_values));
  Shape<2> const shape{host.extent(0), k};
  Tensor<T, 2> values{shape};
  Tensor<int, 2> indices{shape};
  top_k(Reference{}, TopKArgs<T>{.x = host, .values = values, .indices = indices});
  DeviceTensor<T, 2> const got_values{ctx, shape};
  DeviceTensor<int, 2> const got{ctx, shape};
  top_k(ctx, TopKArgs<T>{.x = there, .values = with_values ? got_values.view() : View<T, 2>{}, .indices = got});
  CHECK(same_bits(to_host(ctx, got), indices));
  if (with_values) CHECK(same_bits(to_host(ctx, got_values), values));
}

}  // namespace

GPU_TEST_TEMPLATE("top_k on a GPU: the same elements as the reference, with ties and without", T, float, double, Half, bf16) {
  Cuda const ctx;
  for (Index rows : {1, 3})
    for (Index D : {1, 2, 31, 64, 1009, 5000})
      for (int kind = 0; kind < 3; ++kind) {
        auto x = random_tensor<T>(Shape{rows, D}, 1, 2);
        for (T& v : x) {
          if (kind == 1) v = static_cast<T>(std::nearbyint(widen(v)));     // few distinct values, both zeros among them
          if (kind == 2) v = static_cast<T>(widen(v) > 0 ? 0.0f : -0.0f);  // all equal
        }
        auto const there = to_device(ctx, x);
        for (Index k : {Index{1}, Index{8}, Index{256}, D / 2, D})
          if (k <= D) check<T>(ctx, x.view(), there.view(), k, k % 2 == 0);
      }
}

GPU_TEST("top_k on a GPU: a few sizes reach every form of its kernels") {
  Cuda const ctx;
  for (auto const shape : {Shape<2>{70, 16}, Shape<2>{2, 300}, Shape<2>{2, 5000}}) {
    auto const x = random_tensor<float>(shape, 1);
    auto const there = to_device(ctx, x);
    for (Index k : {1, 8, 256, 2049})
      if (k <= shape[1]) check<float>(ctx, x.view(), there.view(), k, true);
  }
}

GPU_TEST_TEMPLATE("top_k on a GPU: rows as long as a vocabulary", T, float, bf16) {
  Cuda const ctx;
  auto const x = random_tensor<T>(Shape{Index{4}, Index{50304}}, 1, 3);
  auto const there = to_device(ctx, x);
  for (Index k : {1, 50, 256, 1024, 2048, 2049, 50304}) check<T>(ctx, x.view(), there.view(), k, true);
}

GPU_TEST("top_k on a GPU: many short rows, infinite and strided ones") {
  Cuda const ctx;
  auto const many = random_tensor<bf16>(Shape{Index{5000}, Index{16}}, 1);
  check<bf16>(ctx, many.view(), to_device(ctx, many).view(), 4, true);
  Index const D = 3001;
  float const inf = std::numeric_limits<float>::infinity();
  Tensor<float, 2> x{Shape{D, Index{4}}};
  for (Index i = 0; i < D; ++i) {
    x(i, 0) = static_cast<float>(i), x(i, 1) = static_cast<float>(-i);
    x(i, 2) = i % 3 == 0 ? inf : -inf, x(i, 3) = 0;
  }
  auto const there = to_device(ctx, x);
  for (Index k : {Index{1}, Index{9}, Index{2000}, D})
    check<float>(ctx, View<float const, 2>{x.view()}.transposed(0, 1), View<float const, 2>{there.view()}.transposed(0, 1), k,
                 true);
  DeviceTensor<int, 2> const none{ctx, Shape{Index{0}, Index{3}}}, no_columns{ctx, Shape{D, Index{0}}};
  top_k(ctx, TopKArgs<float>{.x = there.view().slice(0, 0, 0), .indices = none});
  top_k(ctx, TopKArgs<float>{.x = there.view(), .indices = no_columns});
  ctx.synchronize();
}

GPU_TEST("top_k on a GPU: a NaN anywhere is told at the next wait by its row and column, and the context goes on") {
  Cuda const ctx;
  for (Index D : {19, 5000})
    for (Index column : {Index{0}, Index{17}, D - 1}) {
      auto x = random_tensor<float>(Shape{Index{50}, D}, 1);
      auto const good = x.clone();
      x(7, column) = x(49, 0) = std::numeric_limits<float>::quiet_NaN();
      auto const there = to_device(ctx, x);
      DeviceTensor<int, 2> const indices{ctx, Shape{Index{50}, Index{2}}};
      top_k(ctx, TopKArgs<float>{.x = there.view(), .indices = indices});
      CHECK_THROWS_WITH_AS(ctx.synchronize(), concat("top_k: x(7, ", column, ") is NaN").c_str(), value_error);
      check<float>(ctx, good.view(), to_device(ctx, good).view(), 2, true);
    }
}

GPU_TEST("top_k on a GPU: in a graph that allocates nothing") {
  Cuda const ctx;
  auto const x = random_tensor<float>(Shape{Index{3}, Index{9000}}, 1);
  auto const there = to_device(ctx, x);
  for (Index k : {256, 4000}) {
    DeviceTensor<int, 2> const indices{ctx, Shape{Index{3}, k}};
    auto const run = [&] { top_k(ctx, TopKArgs<float>{.x = there.view(), .indices = indices}); };
    test::expect_repeatable(
        ctx, [&] { test::poison(ctx, indices); }, run, indices);
  }
}
