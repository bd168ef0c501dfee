#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/embedding.hpp>

#include "cuda/layouts.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::expect_right;
using test::Laid;
using test::Layout;
using test::random_tensor;
using test::same_bits;
using verify::EmbeddingBackwardProblem;
using verify::EmbeddingProblem;
using verify::EmbeddingSize;

namespace {

/// One token, few and many, in one tile of the sort and in several, at and around its borders and those of the pieces.
std::vector<EmbeddingSize> sizes() {
  return {{31, 3, 16, 1},      {32, 3, 16, 1},    {33, 3, 16, 1},  {64, 3, 16, 2},     {65, 9, 20, 2},
          {1023, 70, 8},       {1024, 70, 8},     {1025, 5000, 8}, {4099, 7, 24, 1},   {4099, 50304, 4, 3},
          {5000, 300, 64, 40}, {3000, 50304, 12}, {200, 40, 1152}, {70000, 90, 4, 80}, {40, 11, 777}};
}

}  // namespace

GPU_TEST_TEMPLATE("embedding on a GPU: every shape agrees with the double reference, forward and backward", T, float, double, Half,
                  bf16) {
  Cuda const ctx;
  expect_right(verify::check<EmbeddingProblem, T>(ctx));
  expect_right(verify::check<EmbeddingProblem, T>(ctx, {}, {{1025, 5000, 8}, {200, 40, 1152}}));
  expect_right(verify::check<EmbeddingBackwardProblem, T>(ctx));
  expect_right(verify::check<EmbeddingBackwardProblem, T>(ctx, {}, sizes()));
}

GPU_TEST_TEMPLATE("embedding on a GPU: any strides give the bits of contiguous matrices, and touch nothing else", T, float, bf16) {
  Cuda const ctx;
  for (Index D : {40, 13}) {
    auto const tokens = verify::Inputs<T>{1}.template integers<Token>(Shape<1>{2 * 150}, 9);
    auto const on_device = to_device(ctx, tokens);
    View<Token const, 1> const seen{on_device.data(), Shape<1>{150}, Shape<1>{2}};
    auto const weight = random_tensor<T>(Shape<2>{9, D}, 2), d_y = random_tensor<T>(Shape<2>{150, D}, 3);
    auto const d_weight = random_tensor<accumulator_t<T>>(Shape<2>{9, D}, 4);
    Tensor<T, 2> expected{Shape<2>{150, D}};
    for (Index i = 0; i < 150; ++i)
      for (Index d = 0; d < D; ++d) expected(i, d) = weight(tokens(2 * i), d);
    Tensor<accumulator_t<T>, 2> expected_gradient;
    test::for_layouts([&](Layout in, Layout out) {
      Laid<T> const table{ctx, weight, in}, gradient{ctx, d_y, in};
      Laid<T> y{ctx, verify::unwritten<T>(expected.shape()), out};
      Laid<accumulator_t<T>> sums{ctx, d_weight, out};
      embedding(ctx, EmbeddingArgs<T>{.tokens = seen, .weight = table.view(), .y = y.view()});
      CHECK(same_bits(y.result(), expected));
      embedding_backward(ctx, EmbeddingBackwardArgs<T>{.tokens = seen, .d_y = gradient.view(), .d_weight = sums.view()});
      auto got = sums.result();
      if (expected_gradient.size() > 0) CHECK(same_bits(got, expected_gradient));
      expected_gradient = std::move(got);
    });
  }
}

GPU_TEST("embedding on a GPU: the first token outside the vocabulary is told, other rows are right, and the context goes on") {
  Cuda const ctx;
  Index const n = 3000, V = 50, D = 24;
  auto tokens = verify::Inputs<float>{1}.integers<Token>(Shape<1>{n}, V);
  tokens(2500) = -1, tokens(1700) = 50, tokens(2999) = 2000000000;
  auto const there = to_device(ctx, tokens);
  auto const weight = random_tensor<float>(Shape<2>{V, D}, 2), d_y = random_tensor<float>(Shape<2>{n, D}, 3);
  auto const on_device = to_device(ctx, weight), d_on_device = to_device(ctx, d_y);
  Tensor<float, 2> const zeros = [&] {
    Tensor<float, 2> t{Shape<2>{V, D}};
    for (float& x : t) x = 0;
    return t;
  }();
  auto const d_weight = to_device(ctx, zeros);
  DeviceTensor<float, 2> const y{ctx, Shape<2>{n, D}};
  embedding(ctx, EmbeddingArgs<float>{.tokens = there.view(), .weight = on_device.view(), .y = y});
  CHECK_THROWS_WITH_AS(ctx.synchronize(), "embedding: token 1700 is 50, outside the vocabulary", value_error);
  auto const got = to_host(ctx, y);
  for (Index i = 0; i < n; ++i)
    for (Index d = 0; d < D; ++d)
      if (bool const valid = tokens(i) >= 0 && tokens(i) < V; got(i, d) != (valid ? weight(tokens(i), d) : 0.0f)) FAIL_CHECK(i);

  embedding_backward(ctx, EmbeddingBackwardArgs<float>{.tokens = there.view(), .d_y = d_on_device.view(), .d_weight = d_weight});
  CHECK_THROWS_WITH_AS(ctx.synchronize(), "embedding_backward: token 1700 is 50, outside the vocabulary", value_error);
  Tensor<double, 2> expected = converted<double>(zeros);
  for (Index i = 0; i < n; ++i)
    for (Index d = 0; d < D; ++d)
      if (tokens(i) >= 0 && tokens(i) < V) expected(tokens(i), d) += d_y(i, d);
  CHECK_CLOSE(verify::compare(to_host(ctx, d_weight).view(), expected.view(), {.terms = 100, .scale = 10}));
}

GPU_TEST("embedding_backward on a GPU: the same bits twice, and in a graph that allocates nothing") {
  Cuda const ctx;
  Index const n = 5000, V = 300, D = 96;
  auto const tokens = to_device(ctx, verify::Inputs<float>{1}.integers<Token>(Shape<1>{n}, 40));
  auto const d_y = to_device(ctx, random_tensor<bf16>(Shape<2>{n, D}, 3));
  DeviceTensor<float, 2> const d_weight{ctx, Shape<2>{V, D}};
  auto const run = [&] {
    embedding_backward(ctx, EmbeddingBackwardArgs<bf16>{.tokens = tokens.view(), .d_y = d_y.view(), .d_weight = d_weight});
  };
  test::expect_repeatable(
      ctx, [&] { set_zero(ctx, d_weight.view()); }, run, d_weight);
}
