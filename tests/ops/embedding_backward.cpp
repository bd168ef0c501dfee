#include <blackmamba/ops/embedding/backward.hpp>

#include "support/gradients.hpp"

using namespace blackmamba;

namespace {

/// Tokens of which some come more than once.
Tensor<Token, 1> random_tokens(Index n, Index V) {
  Tensor<Token, 1> out{Shape{n}};
  Random const random{7};
  for (Index i = 0; i < n; ++i) out(i) = static_cast<Token>(random.below(static_cast<std::uint64_t>(i), V));
  return out;
}

template <class T>
bool same_bits(View<T const, 2> a, View<T const, 2> b) {
  for (Index r = 0; r < a.extent(0); ++r)
    for (Index i = 0; i < a.extent(1); ++i)
      if (std::memcmp(&a(r, i), &b(r, i), sizeof(T)) != 0) return false;
  return a.shape() == b.shape();
}

/// The gradient on `ctx`, added to numbers that are not 0.
template <class T, class Ctx>
Tensor<accumulator_t<T>, 2> solve(Ctx const& ctx, View<Token const, 1> tokens, View<T const, 2> d_y, Index V) {
  auto d_weight = test::random_tensor<accumulator_t<T>>(Shape{V, d_y.extent(1)}, 2);
  embedding_backward(ctx, EmbeddingBackwardArgs<T>{.tokens = tokens, .d_y = d_y, .d_weight = d_weight});
  return d_weight;
}

}  // namespace

TEST_CASE_TEMPLATE(
    "embedding_backward: every scalar and shape agrees with the double reference, every context with the others bit "
    "for bit",
    T, float, double, half, bf16) {
  using A = accumulator_t<T>;
  Index const V = 11;
  for (Index n : {0, 1, 5, 300})
    for (Index D : {0, 1, 3, 4, 7, 8, 9, 64, 67, 200}) {
      INFO(concat("n ", n, ", D ", D));
      auto const tokens = random_tokens(n, V);
      auto const d_y = test::random_tensor<T>(Shape{n, D}, 1);
      auto const wide_d_y = converted<double>(d_y);
      auto exact = converted<double>(test::random_tensor<A>(Shape{V, D}, 2));
      embedding_backward(Reference{}, EmbeddingBackwardArgs<double>{.tokens = tokens, .d_y = wide_d_y, .d_weight = exact});
      auto const got = solve<T>(Reference{}, tokens, d_y, V);
      CHECK_CLOSE(verify::compare(got.view(), exact.view(), verify::Cost{.terms = static_cast<double>(n)}));
      for (int threads : {1, 2, 3}) CHECK(same_bits<A>(solve<T>(Cpu{threads}, tokens, d_y, V), got));
    }
}

TEST_CASE("embedding_backward: the gradient is that of dual numbers through the lookup") {
  Index const V = 5, D = 3;
  auto const tokens = random_tokens(9, V);
  auto const weight = test::random_tensor<double>(Shape{V, D}, 1), d_y = test::random_tensor<double>(Shape{Index{9}, D}, 2);
  Tensor<double, 2> d_weight{Shape{V, D}};
  embedding_backward(Reference{}, EmbeddingBackwardArgs<double>{.tokens = tokens, .d_y = d_y, .d_weight = d_weight});
  test::check_gradients(
      [&](auto const& dual) {
        Tensor<Dual<double>, 2> y{d_y.shape()};
        embedding(Reference{}, EmbeddingArgs<Dual<double>>{.tokens = tokens, .weight = dual, .y = y});
        return test::weighted_sum(d_y, y);
      },
      test::Gradient{"weight", weight, d_weight});
}

TEST_CASE("embedding_backward: strided gradients give the same bits, on rows and on columns") {
  Index const n = 40, V = 6, D = 70;
  auto const tokens = random_tokens(n, V);
  auto const wide = test::random_tensor<float>(Shape{n, D + 3}, 1), columns = test::random_tensor<float>(Shape{D, n}, 1);
  auto const rows = wide.view().slice(1, 2, D);
  CHECK(same_bits<float>(solve<float>(Cpu{2}, tokens, rows, V), solve<float>(Reference{}, tokens, rows, V)));
  auto const turned = columns.view().transposed(0, 1);
  CHECK(same_bits<float>(solve<float>(Cpu{2}, tokens, turned, V), solve<float>(Reference{}, tokens, turned, V)));
}

TEST_CASE_TEMPLATE("embedding_backward: wrong tokens and shapes are refused with their values, before anything is written", Ctx,
                   Reference, Cpu) {
  Tensor<Token, 1> tokens{Shape<1>{2}};
  auto const d_y = test::random_tensor<float>(Shape<2>{2, 8}, 1), wrong = test::random_tensor<float>(Shape<2>{3, 7}, 1);
  Tensor<float, 2> d_weight{Shape<2>{4, 8}};
  tokens(1) = 4;
  CHECK_THROWS_WITH_AS(embedding_backward(Ctx{}, EmbeddingBackwardArgs<float>{.tokens = tokens, .d_y = d_y, .d_weight = d_weight}),
                       "embedding_backward: token 1 is 4, outside the vocabulary of 4", value_error);
  for (float x : d_weight) CHECK(x == 0);
  CHECK_THROWS_WITH_AS(
      embedding_backward(Ctx{}, EmbeddingBackwardArgs<float>{.tokens = tokens, .d_y = wrong, .d_weight = d_weight}),
      "embedding_backward: d_y has shape (3, 7), tokens asks for (2, 8): extent 0 is 3, not 2", shape_error);
}
