#include <blackmamba/ops/route/route.hpp>
#include <blackmamba/ops/route/threshold.hpp>

#include <algorithm>
#include <numeric>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

template <class Ctx>
Tensor<int, 2> choose(Ctx const& ctx, View<float const, 2> scores, Index k, View<float const, 1> bias = {}, Index groups = 1,
                      Index kept = 1) {
  Tensor<int, 2> out{Shape{scores.extent(0), k}};
  route_choose(ctx, RouteChooseArgs<float>{.scores = scores, .bias = bias, .groups = groups, .groups_kept = kept, .experts = out});
  return out;
}

bool same(Tensor<int, 2> const& a, Tensor<int, 2> const& b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

Tensor<Index, 1> loads(Tensor<int, 2> const& experts, Index E) {
  Tensor<Index, 1> out{Shape{E}};
  for (int e : experts)
    if (e >= 0) ++out(e);
  return out;
}

}  // namespace

TEST_CASE("route_choose: the choice is the head of a sort of every token's biased scores, ties by index, on every context") {
  for (Index tokens : {0, 1, 50, 5000})
    for (Index E : {1, 6, 12})
      for (Index k : {Index{1}, std::min(E, Index{3}), E}) {
        auto scores = test::random_tensor<float>(Shape{tokens, E}, 1);
        for (float& s : scores) s = std::round(s * 4) / 4;  // with ties
        auto const bias = test::random_tensor<float>(Shape{E}, 2, 0.5);
        auto const got = choose(Cpu{2}, scores, k, bias);
        CHECK(same(got, choose(Reference{}, scores, k, bias)));
        bool right = true;
        std::vector<int> order(static_cast<std::size_t>(E));
        for (Index i = 0; i < tokens; ++i) {
          std::iota(order.begin(), order.end(), 0);
          std::stable_sort(order.begin(), order.end(),
                           [&](int p, int q) { return scores(i, p) + bias(p) > scores(i, q) + bias(q); });
          for (Index s = 0; s < k; ++s) right = right && got(i, s) == order[static_cast<std::size_t>(s)];
        }
        CHECK(right);
      }
}

TEST_CASE("route_choose: a group is worth its best experts, as many as a kept group gives, and others are not chosen") {
  Tensor<float, 2> scores{Shape<2>{1, 6}};
  float const row[]{9, 0, 0, 5, 5, 1};  // groups (9 0) (0 5) (5 1)
  std::copy(std::begin(row), std::end(row), scores.begin());
  // One expert a group counts: 9, 5, 5.
  auto const by_best = choose(Reference{}, scores, 2, {}, 3, 2);
  CHECK(by_best(0, 0) == 0);
  CHECK(by_best(0, 1) == 3);
  // Two a group: 9, 5, 6.
  auto const by_two = choose(Reference{}, scores, 4, {}, 3, 2);
  int const expected[]{0, 4, 5, 1};
  CHECK(std::equal(by_two.begin(), by_two.end(), expected));
  // The bias counts for groups, too.
  Tensor<float, 1> bias{Shape<1>{6}};
  bias(2) = 20;
  CHECK(choose(Cpu{1}, scores, 1, bias, 3, 1)(0, 0) == 2);
}

TEST_CASE("route_choose: what cannot be chosen is refused with its numbers") {
  auto scores = test::random_tensor<float>(Shape<2>{2, 6}, 3);
  CHECK_THROWS_WITH_AS(choose(Reference{}, scores, 1, {}, 4, 1),
                       "route_choose: 1 of 4 groups of 6 experts; groups must divide the experts, and 1 to all of them be kept",
                       value_error);
  CHECK_THROWS_WITH_AS(choose(Reference{}, scores, 3, {}, 3, 1),
                       "route_choose: 3 experts for a token, and the 1 groups kept have 2", value_error);
  CHECK_THROWS_WITH_AS(choose(Reference{}, scores, 7),
                       "route_choose: experts has 7 slots for a token, outside 1 to the 6 experts of scores", value_error);
  scores(1, 4) = std::nanf("");
  CHECK_THROWS_AS(choose(Cpu{2}, scores, 1), value_error);
}

TEST_CASE("route_expert_choice: every expert takes exactly its capacity, and no token it left scores more") {
  for (Index tokens : {1, 7, 1000})
    for (Index E : {1, 5}) {
      auto scores = test::random_tensor<float>(Shape{tokens, E}, 4);
      for (float& s : scores) s = std::round(s * 8) / 8;
      for (Index capacity : {Index{1}, (tokens + 1) / 2, tokens}) {
        Tensor<int, 2> one{scores.shape()}, two{scores.shape()};
        Tensor<float, 1> thresholds{Shape{E}};
        route_expert_choice(Reference{}, ExpertChoiceArgs<float>{.scores = scores, .capacity = capacity, .experts = one});
        route_expert_choice(
            Cpu{2}, ExpertChoiceArgs<float>{.scores = scores, .capacity = capacity, .experts = two, .thresholds = thresholds});
        CHECK(same(one, two));
        bool right = true;
        for (Index e = 0; e < E; ++e) {
          CHECK(loads(one, E)(e) == capacity);
          for (Index i = 0; i < tokens; ++i) {
            right = right && (one(i, e) == -1 || one(i, e) == e);
            right = right && (one(i, e) >= 0 ? scores(i, e) >= thresholds(e) : scores(i, e) <= thresholds(e));
            // Of equal tokens the earlier ones are taken.
            for (Index j = 0; j < i && one(i, e) >= 0; ++j) right = right && (one(j, e) >= 0 || scores(j, e) < scores(i, e));
          }
        }
        CHECK(right);
        route_threshold(Cpu{2}, RouteThresholdArgs<float>{.scores = scores, .thresholds = thresholds, .experts = two});
        for (Index i = 0; i < one.size(); ++i) right = right && (one.data()[i] < 0 || two.data()[i] == one.data()[i]);
        CHECK(right);
      }
    }
  Tensor<float, 2> scores{Shape<2>{3, 2}};
  Tensor<int, 2> experts{scores.shape()};
  CHECK_THROWS_WITH_AS(
      route_expert_choice(Reference{}, ExpertChoiceArgs<float>{.scores = scores, .capacity = 4, .experts = experts}),
      "route_expert_choice: capacity is 4, outside 1 to the 3 tokens", value_error);
}

TEST_CASE("balance_thresholds: rounds of it approach a choice that gives every expert its share") {
  Index const tokens = 600, E = 6;
  auto scores = test::random_tensor<float>(Shape{tokens, E}, 5, 0.3);
  for (Index i = 0; i < tokens; ++i) scores(i, 2) += 1;
  for (Index k : {1, 2}) {
    Tensor<float, 1> one{Shape{E}}, two{Shape{E}}, bias{Shape{E}};
    for (int round = 0; round < 20; ++round) {
      balance_thresholds(Reference{}, BalanceThresholdsArgs<float>{.scores = scores, .k = k, .thresholds = one});
      balance_thresholds(Cpu{2}, BalanceThresholdsArgs<float>{.scores = scores, .k = k, .thresholds = two});
    }
    CHECK(std::equal(one.begin(), one.end(), two.begin()));
    for (Index e = 0; e < E; ++e) bias(e) = -one(e);
    for (Index load : loads(choose(Cpu{2}, scores, k, bias), E)) {
      CHECK(load <= even_share(tokens, k, E) * 21 / 20);
      CHECK(load >= even_share(tokens, k, E) * 19 / 20);
    }
  }
  Tensor<float, 1> untouched{Shape{E}};
  balance_thresholds(Reference{}, BalanceThresholdsArgs<float>{.scores = scores, .k = E, .thresholds = untouched});
  for (float t : untouched) CHECK(t == 0);
}

TEST_CASE("even_share: rounds to the nearest, of 1 to all tokens") {
  CHECK(even_share(10, 1, 4) == 3);
  CHECK(even_share(9, 1, 4) == 2);
  CHECK(even_share(1, 1, 8) == 1);
  CHECK(even_share(5, 3, 3) == 5);
  CHECK(even_share(0, 1, 8) == 0);
}

TEST_CASE("limit_capacity: experts keep their first assignments in the order of tokens, and the others are counted") {
  Tensor<int, 2> experts{Shape<2>{4, 2}};
  int const before[]{0, 1, 0, 2, -1, 0, 1, 0}, after[]{0, 1, 0, 2, -1, -1, 1, -1};
  std::copy(std::begin(before), std::end(before), experts.begin());
  auto const args = LimitCapacityArgs{.experts = experts, .n_experts = 3, .capacity = 2};
  CHECK(limit_capacity(Cpu{2}, args) == 2);
  CHECK(std::equal(experts.begin(), experts.end(), after));
  CHECK(limit_capacity(Reference{}, args) == 0);
  CHECK(limit_capacity(Reference{}, LimitCapacityArgs{.experts = experts, .n_experts = 3, .capacity = 0}) == 5);
  experts(3, 1) = 3;
  CHECK_THROWS_WITH_AS(limit_capacity(Reference{}, args), "limit_capacity: the expert of token 3, slot 1 is 3, outside -1 to 2",
                       value_error);
  CHECK(expert_capacity(1.0, 10, 2, 8) == 3);
  CHECK(expert_capacity(1.25, 64, 1, 8) == 10);
  CHECK(expert_capacity(1.1, 100, 1, 10) == 11);  // 1.1 is not the decimal number, and its product is a little above 11
  CHECK(expert_capacity(2.0, 0, 1, 8) == 0);
}

TEST_CASE("route_draw: experts of a token differ, follow its key alone, and come equally often") {
  Index const tokens = 6000, E = 5, k = 2;
  Tensor<int, 2> by_row{Shape{tokens, k}}, again{by_row.shape()}, by_key{by_row.shape()};
  Random const random{3, 4};
  route_draw(Reference{}, RouteDrawArgs{.random = random, .n_experts = E, .experts = by_row});
  route_draw(Cpu{2}, RouteDrawArgs{.random = random, .n_experts = E, .experts = again});
  CHECK(same(by_row, again));
  Tensor<Token, 1> keys{Shape{tokens}};
  for (Index i = 0; i < tokens; ++i) keys(i) = static_cast<Token>(tokens - 1 - i);
  route_draw(Cpu{2}, RouteDrawArgs{.random = random, .keys = keys, .n_experts = E, .experts = by_key});
  Index pairs[E][E]{};
  bool right = true;
  for (Index i = 0; i < tokens; ++i) {
    right = right && by_row(i, 0) != by_row(i, 1) && by_key(tokens - 1 - i, 0) == by_row(i, 0);
    ++pairs[by_row(i, 0)][by_row(i, 1)];
  }
  CHECK(right);
  // 300 expected of each ordered pair; six standard deviations of a binomial count.
  double const spread = std::sqrt(300.0 * 19 / 20);
  for (Index p = 0; p < E; ++p)
    for (Index q = 0; q < E; ++q)
      if (p != q) CHECK(std::fabs(static_cast<double>(pairs[p][q]) - 300) <= 6 * spread);
}
