#include <blackmamba/ops/cross_entropy/backward.hpp>

#include <limits>

#include "support/gradients.hpp"

using namespace blackmamba;

namespace {

Tensor<Token, 1> random_targets(Index rows, Index V, Token ignored) {
  Tensor<Token, 1> out{Shape{rows}};
  Random const random{5};
  for (Index r = 0; r < rows; ++r)
    out(r) = r % 4 == 2 ? ignored : static_cast<Token>(random.below(static_cast<std::uint64_t>(r), V));
  return out;
}

template <class T>
bool same_bits(View<T const, 2> a, View<T const, 2> b) {
  for (Index r = 0; r < a.extent(0); ++r)
    for (Index i = 0; i < a.extent(1); ++i)
      if (std::memcmp(&a(r, i), &b(r, i), sizeof(T)) != 0) return false;
  return a.shape() == b.shape();
}

template <class T, class Ctx>
void check(Ctx const& ctx, Index rows, Index V, double spread, double z_coefficient) {
  INFO(concat(Ctx::name, ", rows ", rows, ", V ", V, ", spread ", spread, ", z ", z_coefficient));
  double const scale = 0.25;
  auto const logits = test::random_tensor<T>(Shape{rows, V}, 1, spread);
  auto const wide = converted<double>(logits);
  auto const targets = random_targets(rows, V, -100);
  auto d_logits = test::random_tensor<T>(Shape{rows, V}, 2);
  Tensor<double, 2> exact{Shape{rows, V}};
  cross_entropy_backward(
      ctx, CrossEntropyBackwardArgs<T>{
               .logits = logits, .targets = targets, .z_coefficient = z_coefficient, .scale = scale, .d_logits = d_logits});
  cross_entropy_backward(
      Reference{}, CrossEntropyBackwardArgs<double>{
                       .logits = wide, .targets = targets, .z_coefficient = z_coefficient, .scale = scale, .d_logits = exact});
  CHECK_CLOSE(verify::compare(d_logits.view(), exact.view(), verify::Cost{.terms = static_cast<double>(V)}));
}

}  // namespace

TEST_CASE_TEMPLATE("cross_entropy_backward: every scalar and shape agrees with the double reference on every context", T, float,
                   double, half, bf16) {
  for (Index rows : {0, 1, 7})
    for (Index V : {1, 3, 4, 5, 7, 8, 9, 127, 1009})
      for (double spread : {1.0, 30.0})
        for (double z : {0.0, 0.01}) {
          check<T>(Reference{}, rows, V, spread, z);
          check<T>(Cpu{1}, rows, V, spread, z);
          check<T>(Cpu{2}, rows, V, spread, z);
        }
}

TEST_CASE(
    "cross_entropy_backward: the gradient is that of dual numbers through the forward pass, ignored rows and z-loss included") {
  Index const rows = 7, V = 13;
  auto const logits = test::random_tensor<double>(Shape{rows, V}, 1, 3);
  auto const targets = random_targets(rows, V, 3);
  double const scale = 1.0 / 5;
  auto const run = [&](auto const& ctx, double z) {
    INFO("z ", z);
    Tensor<double, 2> d_logits{Shape{rows, V}};
    cross_entropy_backward(
        ctx,
        CrossEntropyBackwardArgs<double>{
            .logits = logits, .targets = targets, .ignore_index = 3, .z_coefficient = z, .scale = scale, .d_logits = d_logits});
    test::check_gradients(
        [&](auto const& dual) {
          Tensor<Dual<double>, 1> losses{Shape{rows}};
          cross_entropy(Reference{},
                        CrossEntropyArgs<Dual<double>>{
                            .logits = dual, .targets = targets, .ignore_index = 3, .z_coefficient = z, .losses = losses});
          Dual<double> sum{0};
          for (auto const& loss : losses) sum += Dual<double>{scale} * loss;
          return sum;
        },
        test::Gradient{"logits", logits, d_logits});
  };
  for (double z : {0.0, 0.125}) {
    run(Reference{}, z);
    run(Cpu{2}, z);
  }
}

TEST_CASE_TEMPLATE("cross_entropy_backward: a gradient far below the unit roundoff keeps its digits", Ctx, Reference, Cpu) {
  Index const V = 21;
  Tensor<float, 2> logits{Shape{Index{1}, V}}, d_logits{Shape{Index{1}, V}};
  logits(0, 17) = 40;
  Tensor<Token, 1> targets{Shape<1>{1}};
  targets(0) = 17;
  Tensor<double, 2> expected{Shape{Index{1}, V}};
  for (Index v = 0; v < V; ++v) expected(0, v) = (v == 17 ? -20 : 1) * std::exp(-40.0);  // but for a factor 1 + 20 e^-40
  cross_entropy_backward(Ctx{}, CrossEntropyBackwardArgs<float>{.logits = logits, .targets = targets, .d_logits = d_logits});
  CHECK_CLOSE(verify::compare(d_logits.view(), expected.view(), verify::Cost{.terms = static_cast<double>(V)}));
}

TEST_CASE_TEMPLATE("cross_entropy_backward: ignored rows become 0 and are not read, nothing need be left", Ctx, Reference, Cpu) {
  float const nan = std::numeric_limits<float>::quiet_NaN();
  Tensor<float, 2> logits{Shape<2>{2, 9}}, d_logits{Shape<2>{2, 9}};
  for (Index v = 0; v < 9; ++v) logits(0, v) = d_logits(0, v) = nan;
  Tensor<Token, 1> targets{Shape<1>{2}};
  targets(0) = 3, targets(1) = 4;
  cross_entropy_backward(
      Ctx{}, CrossEntropyBackwardArgs<float>{.logits = logits, .targets = targets, .ignore_index = 3, .d_logits = d_logits});
  for (Index v = 0; v < 9; ++v) CHECK(d_logits(0, v) == 0);
  CHECK(d_logits(1, 4) < 0);

  Tensor<float, 2> nothing{Shape<2>{2, 0}};
  targets(1) = 3;
  cross_entropy_backward(
      Ctx{}, CrossEntropyBackwardArgs<float>{.logits = nothing, .targets = targets, .ignore_index = 3, .d_logits = nothing});
}

TEST_CASE_TEMPLATE("cross_entropy_backward: a masked logit has probability 0, and a row without a finite maximum becomes NaN", Ctx,
                   Reference, Cpu) {
  float const inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  Index const V = 11;
  Tensor<float, 2> logits{Shape{Index{5}, V}}, d_logits{Shape{Index{5}, V}};
  logits(0, V - 1) = -inf;
  logits(1, 2) = nan;
  logits(2, V - 1) = inf;
  for (Index v = 0; v < V; ++v) logits(3, v) = -inf;
  logits(4, 0) = -inf;
  Tensor<Token, 1> targets{Shape<1>{5}};
  for (Token& t : targets) t = static_cast<Token>(V - 1);
  cross_entropy_backward(Ctx{}, CrossEntropyBackwardArgs<float>{.logits = logits, .targets = targets, .d_logits = d_logits});
  CHECK(d_logits(0, V - 1) == -1);
  CHECK(d_logits(4, 0) == 0);
  for (Index r = 1; r < 4; ++r)
    for (Index v = 0; v < V; ++v) CHECK(std::isnan(d_logits(r, v)));
}

TEST_CASE_TEMPLATE(
    "cross_entropy_backward: one thread and two give the same bits, in place too, and strided logits the reference's", T, float,
    double, half, bf16) {
  Index const rows = 41, V = 1003;
  auto const logits = test::random_tensor<T>(Shape{rows, V}, 1);
  auto const targets = random_targets(rows, V, -100);
  Tensor<T, 2> one{Shape{rows, V}}, two{Shape{rows, V}};
  CrossEntropyBackwardArgs<T> args{.logits = logits, .targets = targets, .z_coefficient = 0.01, .scale = 0.5, .d_logits = one};
  cross_entropy_backward(Cpu{1}, args);
  args.d_logits = two;
  cross_entropy_backward(Cpu{2}, args);
  CHECK(same_bits<T>(one, two));
  auto const in_place = [&](auto const& ctx) {
    args.logits = logits, args.d_logits = one;
    cross_entropy_backward(ctx, args);
    auto place = logits.clone();
    args.logits = place, args.d_logits = place;
    cross_entropy_backward(ctx, args);
    CHECK(same_bits<T>(place, one));
  };
  in_place(Reference{});
  in_place(Cpu{2});

  auto const few = random_targets(V, rows, -100);
  Tensor<T, 2> reference{Shape{V, rows}}, strided{Shape{V, rows}};
  args.logits = logits.view().transposed(0, 1), args.targets = few, args.d_logits = reference;
  cross_entropy_backward(Reference{}, args);
  args.d_logits = strided;
  cross_entropy_backward(Cpu{2}, args);
  CHECK(same_bits<T>(strided, reference));
}

TEST_CASE_TEMPLATE("cross_entropy_backward: wrong targets, coefficients and shapes are refused with their values", Ctx, Reference,
                   Cpu) {
  Tensor<float, 2> logits{Shape<2>{2, 8}}, wrong{Shape<2>{2, 7}};
  Tensor<Token, 1> targets{Shape<1>{2}}, too_many{Shape<1>{3}};
  targets(1) = 8;
  CrossEntropyBackwardArgs<float> args{.logits = logits, .targets = targets, .d_logits = logits};
  CHECK_THROWS_WITH_AS(cross_entropy_backward(Ctx{}, args),
                       "cross_entropy_backward: targets(1) is 8, and tokens are 0 to 7, or -100 to ignore a row", value_error);
  for (float x : logits) CHECK(x == 0);
  targets(1) = 7;
  args.z_coefficient = -0.5;
  CHECK_THROWS_WITH_AS(cross_entropy_backward(Ctx{}, args), "cross_entropy_backward: z_coefficient is -0.5, not at least 0",
                       value_error);
  args.d_logits = wrong;
  CHECK_THROWS_WITH_AS(cross_entropy_backward(Ctx{}, args),
                       "cross_entropy_backward: d_logits has shape (2, 7), logits asks for (2, 8): extent 1 is 7, not 8",
                       shape_error);
  args.targets = too_many;
  CHECK_THROWS_WITH_AS(cross_entropy_backward(Ctx{}, args),
                       "cross_entropy_backward: targets has shape (3,), logits asks for (2,): extent 0 is 3, not 2", shape_error);
}
