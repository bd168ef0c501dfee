#include <blackmamba/ops/route/losses.hpp>

#include "support/gradients.hpp"

using namespace blackmamba;

namespace {

/// Experts by largest logit.
template <class T>
Tensor<int, 2> largest(Tensor<T, 2> const& logits) {
  Tensor<int, 2> out{Shape<2>{logits.extent(0), 1}};
  for (Index i = 0; i < logits.extent(0); ++i)
    for (Index e = 1; e < logits.extent(1); ++e)
      if (widen(logits(i, e)) > widen(logits(i, out(i, 0)))) out(i, 0) = static_cast<int>(e);
  return out;
}

}  // namespace

TEST_CASE_TEMPLATE("router losses: every scalar agrees with the double reference, with the same bits on every context", T, float,
                   double, half, bf16) {
  for (Index tokens : {1, 13, 3001})
    for (Index E : {1, 4, 9}) {
      auto const logits = test::random_tensor<T>(Shape{tokens, E}, 1, 2);
      auto const exact = converted<double>(logits);
      auto const experts = largest(logits);
      auto const cost = verify::Cost{.terms = static_cast<double>(tokens + E), .scale = 1};
      auto const check = [&](auto const& loss, double magnitude) {
        auto const run = [&](auto const& ctx, auto const& x) {
          auto gradient = x.clone();
          for (auto& g : gradient) g = static_cast<std::remove_reference_t<decltype(g)>>(0.0f);
          auto const value = loss(ctx, x, gradient);
          return std::pair{value, std::move(gradient)};
        };
        auto const one = run(Cpu{1}, logits), two = run(Cpu{2}, logits), plain = run(Reference{}, logits);
        auto const expected = run(Reference{}, exact);
        double const value = static_cast<double>(two.first);
        CHECK(std::fabs(value - expected.first) <= verify::allowed_error<accumulator_t<T>>(cost, expected.first, magnitude));
        CHECK_CLOSE(verify::compare(two.second.view(), expected.second.view(), cost));
        CHECK(one.first == two.first);
        CHECK(plain.first == two.first);
        for (Index i = 0; i < logits.size(); ++i) {
          CHECK(widen(one.second.data()[i]) == widen(two.second.data()[i]));
          CHECK(widen(plain.second.data()[i]) == widen(two.second.data()[i]));
        }
      };
      check(
          [&]<class Ctx, class S>(Ctx const& ctx, Tensor<S, 2> const& x, Tensor<S, 2>& g) {
            return balance_loss(ctx, BalanceLossArgs<S>{.logits = x, .experts = experts, .d_logits = g});
          },
          static_cast<double>(E));
      check([&]<class Ctx, class S>(Ctx const& ctx, Tensor<S, 2> const& x,
                                    Tensor<S, 2>& g) { return router_z_loss(ctx, RouterZLossArgs<S>{.logits = x, .d_logits = g}); },
            100);
      check(
          [&]<class Ctx, class S>(Ctx const& ctx, Tensor<S, 2> const& x, Tensor<S, 2>& g) {
            return sparsity_loss(ctx, SparsityLossArgs<S>{.logits = x, .k = 2, .d_logits = g});
          },
          static_cast<double>(E * E));
    }
}

TEST_CASE("balance_loss: 1 for an even choice by even probabilities, E for a collapse, and sequences count apart") {
  Index const tokens = 8, E = 4;
  Tensor<double, 2> logits{Shape{tokens, E}};
  Tensor<int, 2> experts{Shape<2>{tokens, 1}};
  for (Index i = 0; i < tokens; ++i) experts(i, 0) = static_cast<int>(i % E);
  auto args = BalanceLossArgs<double>{.logits = logits, .experts = experts};
  CHECK(balance_loss(Reference{}, args) == 1);

  // Each of two sequences has an expert of its own: even together, collapsed apart.
  for (Index i = 0; i < tokens; ++i)
    for (Index e = 0; e < E; ++e) logits(i, e) = e == i / 4 ? 800 : 0;
  for (Index i = 0; i < tokens; ++i) experts(i, 0) = static_cast<int>(i / 4);
  Tensor<Index, 1> offsets{Shape<1>{4}};
  offsets(1) = offsets(2) = 4, offsets(3) = 8;
  CHECK(balance_loss(Reference{}, args) == 2);
  args.offsets = offsets;
  CHECK(balance_loss(Cpu{2}, args) == 4);

  Tensor<double, 1> counts{Shape{E}};
  counts(0) = 3, counts(3) = 1;
  args.offsets = {}, args.counts = counts;
  CHECK(balance_loss(Reference{}, args) == 1.5);  // 4 (3/4 · 1/2)
  offsets(3) = 7;
  args.offsets = offsets;
  CHECK_THROWS_AS(balance_loss(Reference{}, args), value_error);
}

TEST_CASE("balance_loss: nothing assigned is no loss, and no tokens neither") {
  auto const logits = test::random_tensor<float>(Shape<2>{3, 4}, 2);
  Tensor<int, 2> experts{Shape<2>{3, 1}};
  for (int& e : experts) e = -1;
  CHECK(balance_loss(Cpu{2}, BalanceLossArgs<float>{.logits = logits, .experts = experts}) == 0);
  Tensor<float, 2> const none{Shape<2>{0, 4}};
  CHECK(balance_loss(Cpu{2}, BalanceLossArgs<float>{.logits = none, .experts = Tensor<int, 2>{Shape<2>{0, 1}}}) == 0);
  CHECK(router_z_loss(Cpu{2}, RouterZLossArgs<float>{.logits = none}) == 0);
  CHECK(sparsity_loss(Cpu{2}, SparsityLossArgs<float>{.logits = none}) == 0);
}

TEST_CASE("router losses: gradients are those of dual numbers, scaled, and added to what is there") {
  using D = Dual<double>;
  auto const logits = test::random_tensor<double>(Shape<2>{9, 5}, 3, 2);
  auto const experts = largest(logits);
  Tensor<Index, 1> offsets{Shape<1>{3}};
  offsets(1) = 2, offsets(2) = 9;
  auto const check = [&](auto const& loss) {
    Tensor<double, 2> gradient{logits.shape()}, added{logits.shape()};
    for (double& g : added) g = 1;
    loss(logits, gradient.view(), 1.0);
    loss(logits, added.view(), 4.0);
    test::check_gradients([&](Tensor<D, 2> const& x) { return loss(x, View<D, 2>{}, 1.0); },
                          test::Gradient{"logits", logits, gradient});
    auto expected = gradient.clone();
    for (double& g : expected) g = 1 + 4 * g;
    CHECK_CLOSE(verify::compare(added.view(), expected.view(), verify::Cost{.terms = 5}));
  };
  check([&]<class S>(Tensor<S, 2> const& x, View<S, 2> g, double scale) {
    return balance_loss(Reference{}, BalanceLossArgs<S>{.logits = x, .experts = experts, .scale = scale, .d_logits = g});
  });
  check([&]<class S>(Tensor<S, 2> const& x, View<S, 2> g, double scale) {
    return balance_loss(Reference{},
                        BalanceLossArgs<S>{.logits = x, .experts = experts, .offsets = offsets, .scale = scale, .d_logits = g});
  });
  check([&]<class S>(Tensor<S, 2> const& x, View<S, 2> g, double scale) {
    return router_z_loss(Reference{}, RouterZLossArgs<S>{.logits = x, .scale = scale, .d_logits = g});
  });
  check([&]<class S>(Tensor<S, 2> const& x, View<S, 2> g, double scale) {
    return sparsity_loss(Reference{}, SparsityLossArgs<S>{.logits = x, .k = 2, .scale = scale, .d_logits = g});
  });
}

TEST_CASE("router_z_loss: the square of the logarithm of E where all logits are 0") {
  Tensor<double, 2> const logits{Shape<2>{3, 4}};
  double const z = std::log(4.0);
  CHECK(router_z_loss(Reference{}, RouterZLossArgs<double>{.logits = logits}) ==
        doctest::Approx(z * z).epsilon(8 * scalar_traits<double>::unit_roundoff));
}

TEST_CASE(
    "router losses: a coefficient is of the loss and the gradient, scale of the gradient, and a loss is added where it lies") {
  auto const logits = test::random_tensor<double>(Shape<2>{9, 4}, 1);
  auto const experts = largest(logits);
  auto const check = [&](auto const& run) {
    Tensor<double, 2> plain{logits.shape()}, scaled{logits.shape()};
    Tensor<double, 1> total{Shape<1>{1}};
    total(0) = 5;
    double const value = run(1.0, 1.0, View<double, 1>{}, plain), returned = run(0.5, 3.0, View<double, 1>{total}, scaled);
    CHECK(returned == value);
    CHECK(total(0) == doctest::Approx(5 + 0.5 * value).epsilon(1e-14));
    for (Index i = 0; i < plain.size(); ++i) CHECK(scaled.data()[i] == doctest::Approx(1.5 * plain.data()[i]).epsilon(1e-14));
    Tensor<double, 1> two{Shape<1>{2}};
    CHECK_THROWS_AS(run(1.0, 1.0, View<double, 1>{two}, plain), shape_error);
  };
  check([&](double coefficient, double scale, View<double, 1> loss, View<double, 2> d_logits) {
    return balance_loss(
        Cpu{2},
        BalanceLossArgs<double>{
            .logits = logits, .experts = experts, .coefficient = coefficient, .scale = scale, .loss = loss, .d_logits = d_logits});
  });
  check([&](double coefficient, double scale, View<double, 1> loss, View<double, 2> d_logits) {
    return router_z_loss(
        Cpu{2},
        RouterZLossArgs<double>{.logits = logits, .coefficient = coefficient, .scale = scale, .loss = loss, .d_logits = d_logits});
  });
  // Half of it by its logarithm.
  Tensor<double, 1> log_half{Shape<1>{1}};
  log_half(0) = std::log(0.5);
  check([&](double coefficient, double scale, View<double, 1> loss, View<double, 2> d_logits) {
    bool const half = coefficient == 0.5;
    return sparsity_loss(
        Cpu{2}, SparsityLossArgs<double>{.logits = logits,
                                         .k = 2,
                                         .coefficient = half ? 1 : coefficient,
                                         .log_coefficient = half ? View<double const, 1>{log_half} : View<double const, 1>{},
                                         .scale = scale,
                                         .loss = loss,
                                         .d_logits = d_logits});
  });
}
