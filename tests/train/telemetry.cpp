#include <blackmamba/train/telemetry.hpp>

#include <limits>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

Tensor<int, 2> experts_of(std::vector<std::vector<int>> const& rows) {
  Tensor<int, 2> out{Shape<2>{static_cast<Index>(rows.size()), static_cast<Index>(rows.at(0).size())}};
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (std::size_t s = 0; s < rows[i].size(); ++s) out(static_cast<Index>(i), static_cast<Index>(s)) = rows[i][s];
  return out;
}

/// Experts drawn at random, some slots empty.
Tensor<int, 2> random_experts(Index tokens, Index slots, Index E, std::uint64_t seed) {
  Tensor<int, 2> out{Shape<2>{tokens, slots}};
  Random const random{seed};
  for (Index i = 0; i < out.size(); ++i)
    out.data()[i] = static_cast<int>(random.uniform(static_cast<std::uint64_t>(i)) * static_cast<double>(E + 1)) - 1;
  return out;
}

/// Confidence, margin and root mean square by the formula, in long double.
struct Expected {
  double confidence = 0, margin = 0, logit_rms = 0;
};
template <class T>
Expected expected(View<T const, 2> logits) {
  long double confidence = 0, margin = 0, squares = 0;
  Index const tokens = logits.extent(0), E = logits.extent(1);
  for (Index i = 0; i < tokens; ++i) {
    std::vector<long double> p;
    long double sum = 0;
    for (Index j = 0; j < E; ++j) {
      auto const x = static_cast<long double>(widen(logits(i, j)));
      p.push_back(std::exp(x)), sum += p.back(), squares += x * x;
    }
    std::sort(p.begin(), p.end(), std::greater<>{});
    confidence += p[0] / sum;
    margin += (p[0] - (E > 1 ? p[1] : 0.0L)) / sum;
  }
  auto const n = static_cast<long double>(tokens);
  return {static_cast<double>(confidence / n), static_cast<double>(margin / n),
          static_cast<double>(std::sqrt(squares / (n * static_cast<long double>(E))))};
}

void check_near(double got, double wanted, double terms, double unit) {
  INFO(concat("got ", got, ", wanted ", wanted));
  CHECK(std::abs(got - wanted) <= 8 * std::sqrt(terms + 1) * unit * std::max(1.0, std::abs(wanted)));
}

}  // namespace

TEST_CASE("telemetry: an even load violates nothing, a load on one expert violates all that it can") {
  auto const even = load_balance({5, 5, 5, 5});
  CHECK(even.max_vio == 0);
  CHECK(even.variation == 0);
  CHECK(even.gini == 0);
  CHECK(even.entropy == doctest::Approx(1).epsilon(1e-15));
  CHECK(even.dead == 0);

  auto const one = load_balance({0, 12, 0, 0});
  CHECK(one.max_load == 12);
  CHECK(one.min_load == 0);
  CHECK(one.max_vio == 3);
  check_near(one.variation, std::sqrt(3.0), 4, 0x1p-53);
  CHECK(one.gini == 0.75);
  CHECK(one.entropy == 0);
  CHECK(one.dead == 3);
}

TEST_CASE("telemetry: the balance of a load follows its formulas") {
  std::vector<Index> const load{7, 0, 3, 10, 1};
  double mean = 0, squares = 0, differences = 0, entropy = 0;
  for (Index const l : load) mean += static_cast<double>(l) / 5;
  for (Index const l : load) {
    auto const x = static_cast<double>(l), share = x / (5 * mean);
    squares += (x - mean) * (x - mean) / 5;
    if (l > 0) entropy -= share * std::log(share) / std::log(5.0);
    for (Index const m : load) differences += std::abs(static_cast<double>(l - m));
  }
  auto const got = load_balance(load);
  check_near(got.variation, std::sqrt(squares) / mean, 5, 0x1p-53);
  check_near(got.max_vio, 10 / mean - 1, 5, 0x1p-53);
  check_near(got.gini, differences / (2 * 25 * mean), 25, 0x1p-53);
  check_near(got.entropy, entropy, 5, 0x1p-53);
  CHECK(got.dead == 1);
  CHECK(got.min_load == 0);
  CHECK(got.max_load == 10);
}

TEST_CASE("telemetry: nothing assigned, one expert and no expert count as even") {
  CHECK(load_balance({0, 0, 0}).max_vio == 0);
  CHECK(load_balance({0, 0, 0}).entropy == 1);
  CHECK(load_balance({0, 0, 0}).dead == 3);
  CHECK(load_balance({9}).max_vio == 0);
  CHECK(load_balance({9}).entropy == 1);
  CHECK(load_balance({}).dead == 0);
}

TEST_CASE_TEMPLATE("telemetry: confidence, margin and the size of logits follow their formulas at every shape", T, float, double,
                   half, bf16) {
  for (Index const tokens : {1, 2, 7, 8, 9, 31, 64})
    for (Index const E : {1, 2, 3, 8, 13}) {
      INFO(concat("tokens ", tokens, ", E ", E));
      auto const logits = test::random_tensor<T>(Shape{tokens, E}, 3, 2.0, -1.0);
      auto const experts = random_experts(tokens, 2, E, 5);
      auto const got = routing_stats(RoutingArgs<T>{.logits = logits, .experts = experts});
      auto const wanted = expected<T>(logits);
      double const unit = scalar_traits<accumulator_t<T>>::unit_roundoff;
      check_near(got.confidence, wanted.confidence, static_cast<double>(E), unit);
      check_near(got.margin, wanted.margin, static_cast<double>(E), unit);
      check_near(got.logit_rms, wanted.logit_rms, static_cast<double>(E), unit);
    }
}

TEST_CASE("telemetry: strided logits give the bits of contiguous ones") {
  auto const wide = test::random_tensor<float>(Shape{Index{11}, Index{19}}, 4);
  auto const strided = View<float const, 2>{wide}.transposed(0, 1).slice(1, 2, 7);
  Tensor<float, 2> copy{Shape{Index{19}, Index{7}}};
  for (Index i = 0; i < 19; ++i)
    for (Index j = 0; j < 7; ++j) copy(i, j) = strided(i, j);
  auto const experts = random_experts(19, 1, 7, 8);
  auto const a = routing_stats(RoutingArgs<float>{.logits = strided, .experts = experts});
  auto const b = routing_stats(RoutingArgs<float>{.logits = copy, .experts = experts});
  CHECK(a.confidence == b.confidence);
  CHECK(a.margin == b.margin);
  CHECK(a.logit_rms == b.logit_rms);
}

TEST_CASE("telemetry: loads are counted from the experts, or taken where dropped assignments are known") {
  auto const logits = test::random_tensor<float>(Shape{Index{4}, Index{3}}, 1);
  auto const experts = experts_of({{0, 2}, {2, -1}, {-1, -1}, {2, 0}});
  auto const counted = routing_stats(RoutingArgs<float>{.logits = logits, .experts = experts, .report = {.dropped = 2}}, 6);
  CHECK(counted.layer == 6);
  CHECK(counted.tokens == 4);
  CHECK(counted.load == std::vector<Index>{2, 0, 3});
  CHECK(counted.balance.dead == 1);
  CHECK(counted.unrouted == 1);
  CHECK(counted.dropped == 2);
  CHECK_FALSE(counted.moved.has_value());

  Index const load[]{2, 0, 5};
  auto const given = routing_stats(RoutingArgs<float>{.logits = logits, .experts = experts, .load = {load, Shape<1>{3}}});
  CHECK(given.load == std::vector<Index>{2, 0, 5});
  CHECK(given.unrouted == 1);
}

TEST_CASE("telemetry: passes of a step add up to the pass over all of their tokens") {
  Index const tokens = 48, E = 5;
  auto const logits = test::random_tensor<float>(Shape{tokens, E}, 2);
  auto const experts = random_experts(tokens, 2, E, 3), inference = random_experts(tokens, 3, E, 4);
  auto const all = [&](Index begin, Index count, RouterReport<float> const& report) {
    return RoutingArgs<float>{.logits = View<float const, 2>{logits}.slice(0, begin, count),
                              .experts = View<int const, 2>{experts}.slice(0, begin, count),
                              .inference = View<int const, 2>{inference}.slice(0, begin, count),
                              .report = report};
  };
  auto const whole = routing_stats(all(0, tokens, {.iterations = 9, .marginal_error = 0.25, .loss = 3, .z_loss = 1, .dropped = 5}));
  RoutingCounter parts{E};
  parts.add(all(0, 16, {.iterations = 9, .marginal_error = 0.125, .loss = 1, .z_loss = 3, .dropped = 2}));
  parts.add(all(16, 32, {.iterations = 4, .marginal_error = 0.25, .loss = 4, .z_loss = 0, .dropped = 3}));
  auto const sum = parts.stats();
  CHECK(sum.tokens == tokens);
  CHECK(sum.load == whole.load);
  CHECK(sum.balance.gini == whole.balance.gini);
  CHECK(sum.confidence == whole.confidence);
  CHECK(sum.margin == whole.margin);
  CHECK(sum.logit_rms == whole.logit_rms);
  CHECK(sum.unrouted == whole.unrouted);
  CHECK(sum.dropped == 5);
  CHECK(sum.iterations == 9);
  CHECK(sum.marginal_error == 0.25);
  CHECK(sum.loss == 3);
  CHECK(sum.z_loss == 1);
  CHECK(sum.moved.value() == whole.moved.value());
}

TEST_CASE("telemetry: a step that begins remembers nothing of the one before") {
  auto const logits = test::random_tensor<float>(Shape{Index{9}, Index{4}}, 2);
  auto const experts = random_experts(9, 1, 4, 3), others = random_experts(9, 1, 4, 4);
  RoutingCounter counter{4, 2};
  counter.add(RoutingArgs<float>{.logits = logits, .experts = others, .inference = experts, .report = {.loss = 7, .dropped = 1}});
  counter.start();
  counter.add(RoutingArgs<float>{.logits = logits, .experts = experts});
  auto const again = counter.stats(), fresh = routing_stats(RoutingArgs<float>{.logits = logits, .experts = experts}, 2);
  CHECK(again.layer == 2);
  CHECK(again.load == fresh.load);
  CHECK(again.confidence == fresh.confidence);
  CHECK(again.loss == 0);
  CHECK(again.dropped == 0);
  CHECK_FALSE(again.moved.has_value());
  counter.start();
  CHECK(counter.stats().tokens == 0);
  CHECK(counter.stats().confidence == 0);
}

TEST_CASE("telemetry: a plan that is not a number shows, whatever passes follow") {
  auto const logits = test::random_tensor<float>(Shape{Index{2}, Index{2}}, 2);
  auto const experts = experts_of({{0}, {1}});
  RoutingCounter counter{2};
  double const nan = std::numeric_limits<double>::quiet_NaN();
  for (double const error : {0.1, nan, 0.2})
    counter.add(RoutingArgs<float>{.logits = logits, .experts = experts, .report = {.marginal_error = error}});
  CHECK(std::isnan(counter.stats().marginal_error));
}

TEST_CASE("telemetry: churn counts tokens whose set of experts changed, whatever the order and the empty slots") {
  auto const before = experts_of({{0, 1}, {2, -1}, {3, 1}, {-1, -1}, {0, 2}});
  CHECK(churn(before, before) == 0);
  CHECK(churn(before, experts_of({{1, 0}, {-1, 2}, {1, 3}, {-1, -1}, {2, 0}})) == 0);
  CHECK(churn(before, experts_of({{1, 2}, {2, 0}, {3, -1}, {0, -1}, {0, 2}})) == 0.8);
  CHECK(churn(before, experts_of({{0, 1, -1}, {-1, -1, 2}, {-1, 1, 3}, {-1, -1, -1}, {2, 0, 1}})) == 0.2);
  CHECK(churn(View<int const, 2>{nullptr, Shape<2>{0, 1}}, View<int const, 2>{nullptr, Shape<2>{0, 1}}) == 0);
  CHECK_THROWS_AS(churn(before, experts_of({{0}})), shape_error);
}

TEST_CASE("telemetry: extents that disagree and experts that there are not are refused, and nothing is added") {
  auto const logits = test::random_tensor<float>(Shape{Index{2}, Index{3}}, 1);
  RoutingCounter counter{3};
  auto const two = experts_of({{0}, {1}}), three = experts_of({{0}, {1}, {2}}), beyond = experts_of({{0}, {3}});
  CHECK_THROWS_AS(counter.add(RoutingArgs<float>{.logits = logits, .experts = three}), shape_error);
  CHECK_THROWS_AS(counter.add(RoutingArgs<float>{.logits = logits, .experts = two, .inference = three}), shape_error);
  CHECK_THROWS_WITH_AS(counter.add(RoutingArgs<float>{.logits = logits, .experts = beyond}),
                       "RoutingCounter: token 1 goes to expert 3 of 3", value_error);
  CHECK_THROWS_AS(RoutingCounter{4}.add(RoutingArgs<float>{.logits = logits, .experts = two}), shape_error);
  CHECK(counter.stats().tokens == 0);
  CHECK(counter.stats().load == std::vector<Index>{0, 0, 0});
}

TEST_CASE("telemetry: no tokens are no error") {
  Tensor<float, 2> const logits{Shape<2>{0, 3}};
  Tensor<int, 2> const experts{Shape<2>{0, 2}};
  auto const stats = routing_stats(RoutingArgs<float>{.logits = logits, .experts = experts});
  CHECK(stats.tokens == 0);
  CHECK(stats.balance.max_vio == 0);
  CHECK(stats.logit_rms == 0);
}
