#include <blackmamba/generate/generate.hpp>
#include <blackmamba/generate/score.hpp>
#include <blackmamba/model/networks.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

constexpr Token prompt[]{72, 105, 33, 10, 72};

Model<BlackMamba<>, float, Cpu> small_model() {
  Model<BlackMamba<>, float, Cpu> model{Dims{.vocab = 256, .d_model = 24, .d_state = 4, .d_ffn = 16, .n_experts = 4, .depth = 2},
                                        Cpu{2}};
  model.initialise(5);
  for (float& x : std::span{model.flat().data(), static_cast<std::size_t>(model.flat().size())}) x *= 3;
  return model;
}

}  // namespace

TEST_CASE("generate: greedy takes the argmax of the full forward pass at every position") {
  auto const model = small_model();
  auto const out = generate(model, prompt, {.max_new_tokens = 12, .sample = {.temperature = 0}, .prefill_chunk = 2});
  std::vector<Token> all(std::begin(prompt), std::end(prompt));
  for (Index t = 0; t < 12; ++t) {
    Index const L = static_cast<Index>(all.size());
    Tensor<float, 2> logits{Shape<2>{1, 256}};
    model.forward_last(View<Token const, 2>{all.data(), Shape<2>{1, L}}, logits);
    Token best = 0;
    for (Token v = 1; v < 256; ++v)
      if (logits(0, v) > logits(0, best)) best = v;
    CHECK(out(0, t) == best);
    all.push_back(best);
  }
}

TEST_CASE("generate: the same seed gives the same tokens, and a continuation of a batch is none of the others") {
  auto const model = small_model();
  GenerateOptions options{.max_new_tokens = 20, .batch = 3, .seed = 11};
  auto const a = generate(model, prompt, options), b = generate(model, prompt, options);
  options.seed = 12;
  auto const c = generate(model, prompt, options);
  Index across_seeds = 0, across_rows = 0;
  for (Index t = 0; t < 20; ++t) {
    for (Index r = 0; r < 3; ++r) CHECK(a(r, t) == b(r, t));
    across_seeds += a(0, t) != c(0, t);
    across_rows += a(0, t) != a(1, t);
  }
  CHECK(across_seeds > 0);
  CHECK(across_rows > 0);
}

TEST_CASE("generate: greedy rows of a batch are all the same, and stop when they are told to") {
  auto const model = small_model();
  Index calls = 0;
  Index const rows =
      generate(model, prompt, {.max_new_tokens = 20, .batch = 4, .sample = {.temperature = 0}}, [&](View<Token const, 1> tokens) {
        for (Index b = 1; b < 4; ++b) CHECK(tokens(b) == tokens(0));
        return ++calls < 7;
      });
  CHECK(calls == 7);
  CHECK(rows == 7);
}

TEST_CASE("generate: what cannot be is refused with its numbers") {
  auto const model = small_model();
  CHECK_THROWS_WITH_AS(generate(model, std::span<Token const>{}, {.max_new_tokens = 1}),
                       "generate: the prompt is empty: the model needs at least one token to go on from", value_error);
  CHECK_THROWS_WITH_AS(generate(model, prompt, {.max_new_tokens = 1, .batch = 0}), "generate: batch is 0, not at least 1",
                       value_error);
  CHECK_THROWS_AS(generate(model, prompt, {.max_new_tokens = 1, .sample = {.temperature = -1}}), value_error);
}

TEST_CASE("score: chunks give the loss of one pass, and ignored targets do not count") {
  auto const model = small_model();
  Tensor<Token, 2> tokens{Shape<2>{2, 17}}, targets{Shape<2>{2, 17}};
  for (Index i = 0; i < tokens.size(); ++i) {
    tokens.data()[i] = static_cast<Token>(Random{1}.below(static_cast<std::uint64_t>(i), 256));
    targets.data()[i] = static_cast<Token>(Random{2}.below(static_cast<std::uint64_t>(i), 256));
  }
  targets(0, 3) = targets(1, 16) = -100;
  auto const whole = score(model, tokens, targets);
  CHECK(whole.count == 32);
  Tensor<double, 3> expected{Shape<3>{2, 17, 256}};
  score(model, tokens, targets, {}, [&](Index begin, View<float const, 3> logits) {
    CHECK(begin == 0);
    for (Index i = 0; i < expected.size(); ++i) expected.data()[i] = logits.data()[i];
  });
  double sum = 0;
  for (Index b = 0; b < 2; ++b)
    for (Index l = 0; l < 17; ++l) {
      if (targets(b, l) < 0) continue;
      double total = 0;
      for (Index v = 0; v < 256; ++v) total += std::exp(expected(b, l, v));
      sum += std::log(total) - expected(b, l, targets(b, l));
    }
  double const allowed = verify::allowed_error<float>({.terms = 256}, sum, sum);
  CHECK(std::fabs(whole.sum - sum) <= allowed);
  for (Index chunk : {1, 5, 16, 17, 40}) CHECK(std::fabs(score(model, tokens, targets, {.chunk = chunk}).sum - sum) <= allowed);
}
