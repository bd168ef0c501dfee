#include <blackmamba/ops/cross_entropy/cross_entropy.hpp>

#include <limits>

#include <blackmamba/ops/softmax/softmax.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

Tensor<Token, 1> random_targets(Index rows, Index V, Token ignored) {
  Tensor<Token, 1> out{Shape{rows}};
  Random const random{5};
  for (Index r = 0; r < rows; ++r)
    out(r) = r % 4 == 2 ? ignored : static_cast<Token>(random.below(static_cast<std::uint64_t>(r), V));
  return out;
}

template <class T, class Ctx>
void check(Ctx const& ctx, Index rows, Index V, double spread) {
  using A = accumulator_t<T>;
  INFO(concat(Ctx::name, ", rows ", rows, ", V ", V, ", spread ", spread));
  auto const logits = test::random_tensor<T>(Shape{rows, V}, 1, spread);
  auto const logits_exact = converted<double>(logits);
  auto const targets = random_targets(rows, V, -100);
  Tensor<A, 1> losses{Shape{rows}};
  Tensor<double, 1> losses_exact{Shape{rows}};
  cross_entropy(ctx, CrossEntropyArgs<T>{.logits = logits, .targets = targets, .losses = losses});
  cross_entropy(Reference{}, CrossEntropyArgs<double>{.logits = logits_exact, .targets = targets, .losses = losses_exact});
  CHECK_CLOSE(verify::compare(losses.view(), losses_exact.view(), verify::Cost{.terms = static_cast<double>(V)}));
}

}  // namespace

TEST_CASE_TEMPLATE("cross_entropy: every scalar and shape agrees with the double reference on every context", T, float, double,
                   half, bf16) {
  for (Index rows : {0, 1, 7})
    for (Index V : {1, 3, 4, 5, 7, 8, 9, 127, 1009})
      for (double spread : {1.0, 30.0}) {
        check<T>(Reference{}, rows, V, spread);
        check<T>(Cpu{1}, rows, V, spread);
        check<T>(Cpu{2}, rows, V, spread);
      }
}

TEST_CASE("cross_entropy: the loss is minus the log-probability of the target") {
  Index const rows = 5, V = 31;
  auto const logits = test::random_tensor<double>(Shape{rows, V}, 1, 3);
  auto const targets = random_targets(rows, V, -100);
  Tensor<double, 1> losses{Shape{rows}}, expected{Shape{rows}};
  Tensor<double, 2> log_probabilities{Shape{rows, V}};
  cross_entropy(Cpu{2}, CrossEntropyArgs<double>{.logits = logits, .targets = targets, .losses = losses});
  log_softmax(Reference{}, SoftmaxArgs<double>{.x = logits, .y = log_probabilities});
  for (Index r = 0; r < rows; ++r) expected(r) = targets(r) < 0 ? 0 : -log_probabilities(r, targets(r));
  CHECK_CLOSE(verify::compare(losses.view(), expected.view(), verify::Cost{.terms = static_cast<double>(V)}));
}

TEST_CASE_TEMPLATE("cross_entropy: a z_coefficient adds the square of the logarithm of the sum of exponentials, to valid rows", T,
                   float, double, half, bf16) {
  using A = accumulator_t<T>;
  Index const rows = 7, V = 37;
  double const z = 0.125;
  auto const logits = test::random_tensor<T>(Shape{rows, V}, 1, 3);
  auto const targets = random_targets(rows, V, -100);
  Tensor<double, 1> expected{Shape{rows}};
  for (Index r = 0; r < rows; ++r) {
    if (targets(r) < 0) continue;
    double sum = 0;
    for (Index v = 0; v < V; ++v) sum += std::exp(static_cast<double>(widen(logits(r, v))));
    double const log_sum = std::log(sum);
    expected(r) = log_sum - static_cast<double>(widen(logits(r, targets(r)))) + z * log_sum * log_sum;
  }
  auto const check_on = [&](auto const& ctx) {
    Tensor<A, 1> losses{Shape{rows}};
    cross_entropy(ctx, CrossEntropyArgs<T>{.logits = logits, .targets = targets, .z_coefficient = z, .losses = losses});
    CHECK_CLOSE(verify::compare(losses.view(), expected.view(), verify::Cost{.terms = static_cast<double>(V)}));
  };
  check_on(Reference{});
  check_on(Cpu{1});
  check_on(Cpu{2});
}

TEST_CASE_TEMPLATE("cross_entropy: a loss far below the unit roundoff keeps its digits", Ctx, Reference, Cpu) {
  Index const V = 21;
  Tensor<float, 2> logits{Shape{Index{1}, V}};
  logits(0, 17) = 40;
  Tensor<Token, 1> targets{Shape{Index{1}}};
  targets(0) = 17;
  Tensor<float, 1> losses{Shape{Index{1}}};
  Tensor<double, 1> expected{Shape{Index{1}}};
  expected(0) = 20 * std::exp(-40.0);  // log(1 + x) = x to the last digit
  cross_entropy(Ctx{}, CrossEntropyArgs<float>{.logits = logits, .targets = targets, .losses = losses});
  CHECK_CLOSE(verify::compare(losses.view(), expected.view(), verify::Cost{.terms = static_cast<double>(V)}));
}

TEST_CASE_TEMPLATE("cross_entropy: ignored rows have loss 0 and are not read", Ctx, Reference, Cpu) {
  float const nan = std::numeric_limits<float>::quiet_NaN();
  Tensor<float, 2> logits{Shape{Index{2}, Index{9}}};
  for (Index v = 0; v < 9; ++v) logits(0, v) = nan;
  Tensor<Token, 1> targets{Shape{Index{2}}};
  targets(0) = 3, targets(1) = 4;
  Tensor<float, 1> losses{Shape{Index{2}}};
  cross_entropy(Ctx{}, CrossEntropyArgs<float>{.logits = logits, .targets = targets, .ignore_index = 3, .losses = losses});
  CHECK(losses(0) == 0);
  CHECK(losses(1) == std::log(9.0f));

  Tensor<float, 2> nothing{Shape{Index{2}, Index{0}}};
  targets(1) = 3;
  cross_entropy(Ctx{}, CrossEntropyArgs<float>{.logits = nothing, .targets = targets, .ignore_index = 3, .losses = losses});
  CHECK(losses(1) == 0);
}

TEST_CASE_TEMPLATE("cross_entropy: a masked target costs infinity, and a row without a finite maximum is NaN", Ctx, Reference,
                   Cpu) {
  float const inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  Index const V = 11;
  Tensor<float, 2> logits{Shape{Index{4}, V}};
  logits(0, V - 1) = -inf;
  logits(1, 2) = nan;
  logits(2, V - 1) = inf;
  for (Index v = 0; v < V; ++v) logits(3, v) = -inf;
  Tensor<Token, 1> targets{Shape{Index{4}}};
  for (Token& t : targets) t = static_cast<Token>(V - 1);
  Tensor<float, 1> losses{Shape{Index{4}}};
  cross_entropy(Ctx{}, CrossEntropyArgs<float>{.logits = logits, .targets = targets, .losses = losses});
  CHECK(losses(0) == inf);
  for (Index r = 1; r < 4; ++r) CHECK(std::isnan(losses(r)));
}

TEST_CASE_TEMPLATE("cross_entropy: one thread and two give the same bits, and strided logits the reference's", T, float, double,
                   half, bf16) {
  using A = accumulator_t<T>;
  Index const rows = 41, V = 1003;
  auto const logits = test::random_tensor<T>(Shape{rows, V}, 1);
  auto const targets = random_targets(rows, V, -100);
  Tensor<A, 1> one{Shape{rows}}, two{Shape{rows}};
  cross_entropy(Cpu{1}, CrossEntropyArgs<T>{.logits = logits, .targets = targets, .losses = one});
  cross_entropy(Cpu{2}, CrossEntropyArgs<T>{.logits = logits, .targets = targets, .losses = two});
  for (Index r = 0; r < rows; ++r) CHECK(one(r) == two(r));

  auto const few = random_targets(V, rows, -100);
  auto const columns = logits.view().transposed(0, 1);
  Tensor<A, 1> reference{Shape{V}}, strided{Shape{V}};
  cross_entropy(Reference{}, CrossEntropyArgs<T>{.logits = columns, .targets = few, .losses = reference});
  cross_entropy(Cpu{2}, CrossEntropyArgs<T>{.logits = columns, .targets = few, .losses = strided});
  for (Index r = 0; r < V; ++r) CHECK(reference(r) == strided(r));
}

TEST_CASE("cross_entropy: dual numbers give the probabilities minus the target's indicator") {
  Index const V = 13;
  auto const at = test::random_tensor<double>(Shape{Index{1}, V}, 1);
  Tensor<double, 2> probabilities{Shape{Index{1}, V}};
  softmax(Reference{}, SoftmaxArgs<double>{.x = at, .y = probabilities});
  Tensor<Token, 1> targets{Shape{Index{1}}};
  targets(0) = 6;
  Tensor<double, 1> got{Shape{V}}, expected{Shape{V}};
  for (Index v = 0; v < V; ++v) {
    auto logits = converted<Dual<double>>(at);
    logits(0, v).tangent = 1;
    Tensor<Dual<double>, 1> loss{Shape{Index{1}}};
    cross_entropy(Reference{}, CrossEntropyArgs<Dual<double>>{.logits = logits, .targets = targets, .losses = loss});
    got(v) = loss(0).tangent;
    expected(v) = probabilities(0, v) - (v == targets(0) ? 1 : 0);
  }
  CHECK_CLOSE(verify::compare(got.view(), expected.view(), verify::Cost{.terms = static_cast<double>(V)}));
}

TEST_CASE_TEMPLATE("cross_entropy: wrong targets and shapes are refused with their values", Ctx, Reference, Cpu) {
  Tensor<float, 2> logits{Shape{Index{2}, Index{8}}};
  Tensor<Token, 1> targets{Shape{Index{2}}}, too_many{Shape{Index{3}}};
  Tensor<float, 1> losses{Shape{Index{2}}};
  targets(1) = 8;
  CHECK_THROWS_WITH_AS(cross_entropy(Ctx{}, CrossEntropyArgs<float>{.logits = logits, .targets = targets, .losses = losses}),
                       "cross_entropy: targets(1) is 8, and tokens are 0 to 7, or -100 to ignore a row", value_error);
  targets(1) = -1;
  CHECK_THROWS_WITH_AS(cross_entropy(Ctx{}, CrossEntropyArgs<float>{.logits = logits, .targets = targets, .losses = losses}),
                       "cross_entropy: targets(1) is -1, and tokens are 0 to 7, or -100 to ignore a row", value_error);
  CHECK_THROWS_WITH_AS(cross_entropy(Ctx{}, CrossEntropyArgs<float>{.logits = logits, .targets = too_many, .losses = losses}),
                       "cross_entropy: targets has shape (3,), logits asks for (2,): extent 0 is 3, not 2", shape_error);
  targets(1) = 7;
  CHECK_THROWS_WITH_AS(
      cross_entropy(Ctx{}, CrossEntropyArgs<float>{.logits = logits, .targets = targets, .z_coefficient = -0.5, .losses = losses}),
      "cross_entropy: z_coefficient is -0.5, not at least 0", value_error);
}
