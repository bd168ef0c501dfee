#include <blackmamba/ops/embedding/embedding.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

Tensor<Token, 1> some_tokens(Index count, Index vocabulary) {
  Tensor<Token, 1> tokens{Shape{count}};
  for (Index i = 0; i < count; ++i) tokens(i) = static_cast<Token>(i * 7919 % vocabulary);
  return tokens;
}

}  // namespace

TEST_CASE_TEMPLATE("embedding: every row is the table's, bit for bit, on every context", T, float, double, half, bf16,
                   Dual<double>) {
  for (Index count : {0, 1, 5, 700})
    for (Index vocabulary : {1, 13})
      for (Index D : {0, 1, 8, 129}) {
        INFO(concat("tokens ", count, ", vocabulary ", vocabulary, ", D ", D));
        auto const tokens = some_tokens(count, vocabulary);
        Tensor<T, 2> weight{Shape{vocabulary, D}};
        for (Index i = 0; i < weight.size(); ++i) weight.data()[i] = static_cast<T>(static_cast<accumulator_t<T>>(i % 251));
        auto const check = [&](auto const& ctx) {
          Tensor<T, 2> y{Shape{count, D}};
          embedding(ctx, EmbeddingArgs<T>{.tokens = tokens, .weight = weight, .y = y});
          Index wrong = 0;
          for (Index i = 0; i < count; ++i)
            for (Index d = 0; d < D; ++d) wrong += !(y(i, d) == weight(tokens(i), d));
          CHECK(wrong == 0);
        };
        check(Reference{});
        check(Cpu{1});
        check(Cpu{2});
      }
}

TEST_CASE("embedding: tables and results of any strides are read and written with them") {
  auto const table = test::random_tensor<float>(Shape{Index{6}, Index{9}}, 1);
  auto const tokens = some_tokens(4, 9);
  Tensor<float, 2> padded{Shape{Index{4}, Index{11}}};
  auto const y = padded.view().slice(1, 2, 6);
  embedding(Cpu{2}, EmbeddingArgs<float>{.tokens = tokens, .weight = table.view().transposed(0, 1), .y = y});
  for (Index i = 0; i < 4; ++i) {
    for (Index d = 0; d < 6; ++d) CHECK(y(i, d) == table(d, tokens(i)));
    for (Index d : {0, 1, 8, 9, 10}) CHECK(padded(i, d) == 0);
  }
}

TEST_CASE("embedding: a token outside the vocabulary is refused with its position and value, and nothing is written") {
  auto const weight = test::random_tensor<float>(Shape{Index{10}, Index{3}}, 1);
  auto const check = [&](auto const& ctx, Token bad, char const* message) {
    auto tokens = some_tokens(5, 10);
    tokens(3) = bad;
    Tensor<float, 2> y{Shape{Index{5}, Index{3}}};
    CHECK_THROWS_WITH_AS(embedding(ctx, EmbeddingArgs<float>{.tokens = tokens, .weight = weight, .y = y}), message, value_error);
    for (float value : y) CHECK(value == 0);
  };
  check(Reference{}, 10, "embedding: token 3 is 10, outside the vocabulary of 10");
  check(Cpu{2}, 10, "embedding: token 3 is 10, outside the vocabulary of 10");
  check(Cpu{2}, -1, "embedding: token 3 is -1, outside the vocabulary of 10");
}

TEST_CASE("embedding: arguments that disagree are refused with their extents") {
  Tensor<float, 2> weight{Shape{Index{10}, Index{3}}}, narrow{Shape{Index{5}, Index{2}}}, tall{Shape{Index{6}, Index{3}}};
  Tensor<Token, 1> tokens{Shape{Index{5}}};
  CHECK_THROWS_WITH_AS(embedding(Cpu{1}, EmbeddingArgs<float>{.tokens = tokens, .weight = weight, .y = narrow}),
                       "embedding: y has shape (5, 2), weight asks for (5, 3): extent 1 is 2, not 3", shape_error);
  CHECK_THROWS_WITH_AS(embedding(Cpu{1}, EmbeddingArgs<float>{.tokens = tokens, .weight = weight, .y = tall}),
                       "embedding: y has shape (6, 3), tokens asks for (5, 3): extent 0 is 6, not 5", shape_error);
}
